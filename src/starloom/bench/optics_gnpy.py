"""GNPy on one line, for comparison: run by the Python of `.venv-gnpy`, never imported.

Reads {"topology", "equipment", "method", "raman", "repeats"} on stdin, and "computed_channels"
(counted from 1) where a method shall interpolate between some. Prints one JSON object with OSNR and
GSNR in 0.1 nm for each channel and the least CPU time of `repeats` runs through the elements.
"""

import json
import sys
import time
from copy import deepcopy
from typing import Any

from gnpy.core.elements import Fiber, Transceiver
from gnpy.core.info import create_input_spectral_information
from gnpy.core.parameters import SimParams
from gnpy.tools.json_io import _equipment_from_json, network_from_json
from numpy import log10


def main() -> None:
    asked = json.load(sys.stdin)
    SimParams.set_params(
        {
            "raman_params": {
                "flag": asked["raman"],
                "method": "perturbative",
                "order": 3,
                "result_spatial_resolution": 1e3,
                "solver_spatial_resolution": 100,
            },
            "nli_params": {
                "method": asked["method"],
                "dispersion_tolerance": 4,
                "phase_shift_tolerance": 0.1,
                "computed_channels": asked.get("computed_channels"),
            },
        }
    )
    signal = asked["equipment"]["SI"][0]
    line = elements(asked)
    best = float("inf")
    for _ in range(asked["repeats"]):
        light = create_input_spectral_information(
            f_min=signal["f_min"],
            f_max=signal["f_max"],
            roll_off=signal["roll_off"],
            baud_rate=signal["baud_rate"],
            spacing=signal["spacing"],
            tx_osnr=signal["tx_osnr"],
            tx_power=1e-3 * 10 ** (signal["power_dbm"] / 10),
        )
        begun = time.process_time()
        for element in line:
            light = element(light)
        best = min(best, time.process_time() - begun)
    to_osnr = 10 * log10(signal["baud_rate"] / 12.5e9)
    ase = light.ase / light.signal + 10 ** (-(signal["tx_osnr"] - to_osnr) / 10)
    nli = light.nli / light.signal
    found = {
        "seconds": best,
        "thz": list(light.frequency / 1e12),
        "osnr_db": list(-10 * log10(ase) + to_osnr),
        "gsnr_db": list(-10 * log10(ase + nli) + to_osnr),
        "latency_ms": float(light.latency.max()) * 1e3,
        "cd_ps_per_nm": float(light.chromatic_dispersion.mean()) * 1e3,
    }
    sys.stdout.write(json.dumps(found))


def elements(asked: dict[str, Any]) -> list[Any]:
    """Fibres and amplifiers in the order of the light."""
    equipment = _equipment_from_json(deepcopy(asked["equipment"]), {})
    network = network_from_json(deepcopy(asked["topology"]), equipment)
    by_uid = {node.uid: node for node in network.nodes()}
    line = [by_uid[element["uid"]] for element in asked["topology"]["elements"]]
    for element in line:
        if isinstance(element, Fiber):
            element.ref_pch_in_dbm = asked["equipment"]["SI"][0]["power_dbm"]
    return [element for element in line if not isinstance(element, Transceiver)]


if __name__ == "__main__":
    main()
