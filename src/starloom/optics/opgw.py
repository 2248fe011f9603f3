"""Lightning and fault currents on a ground wire with fibres in it (OPGW).

The strands carry current along a helix, so that part of it makes a field along the fibre, and that
field turns the light's polarisation (Faraday). Receivers follow only so fast. Light in a hollow
core hardly touches glass, and air turns it about a thousand times less.
"""

from math import pi

from starloom.optics.base import Fibre

VERDET_RAD_PER_T_M = {"solid": 0.57, "hollow": 0.57e-3}
"""At 1550 nm: silica by 1/lambda^2 from 3.3-3.8 at 633 nm; hollow assumed at a thousandth."""
_MU0 = 4e-7 * pi


def rotation_rad_per_s(
    fibre: Fibre,
    current_rise_a_per_s: float,
    length_m: float,
    *,
    lay_m: float = 0.2,
    axial_share: float = 0.15,
) -> float:
    """Speed of the polarisation state on the Poincare sphere: 2 V mu0 (share / lay) length dI/dt.

    A solenoid of one turn each `lay_m` has B = mu0 I / lay; counter-wound layers leave
    `axial_share` of it. Both are assumed for a usual two-layer wire. A stroke rises by about
    1e10-1e11 A/s over some 100 m of wire: 1-10 Mrad/s in glass, where records are 5-8.
    """
    verdet = VERDET_RAD_PER_T_M[fibre.kind]
    return 2 * verdet * _MU0 * axial_share / lay_m * length_m * current_rise_a_per_s
