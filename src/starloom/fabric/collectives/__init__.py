"""How long collectives take: closed forms over the levels of a fabric, fitted to measurements."""

from starloom.fabric.collectives.base import Algorithm, Kind, Layout, Level, lay_out
from starloom.fabric.collectives.cost import Collectives, overlapped
from starloom.fabric.collectives.errors import BadCollective
from starloom.fabric.collectives.fit import fit, leave_one_out
from starloom.fabric.collectives.reference import Measured, agreement, from_csv, shipped

__all__ = [
    "Algorithm",
    "BadCollective",
    "Collectives",
    "Kind",
    "Layout",
    "Level",
    "Measured",
    "agreement",
    "fit",
    "from_csv",
    "lay_out",
    "leave_one_out",
    "overlapped",
    "shipped",
]
