"""Congestion controls by name."""

from starloom.fabric.packet.congestion.base import Control, Network
from starloom.fabric.packet.congestion.dcqcn import Dcqcn
from starloom.fabric.packet.congestion.encc import Encc
from starloom.fabric.packet.congestion.hpcc import Hpcc
from starloom.fabric.packet.congestion.nscc import Nscc
from starloom.fabric.packet.congestion.pfc import Pfc
from starloom.fabric.packet.congestion.rccc import Rccc
from starloom.fabric.packet.congestion.swift import Swift

CONTROLS: dict[str, type[Control]] = {
    "nscc": Nscc,
    "rccc": Rccc,
    "dcqcn": Dcqcn,
    "swift": Swift,
    "hpcc": Hpcc,
    "encc": Encc,
    "pfc": Pfc,
}

__all__ = [
    "CONTROLS",
    "Control",
    "Dcqcn",
    "Encc",
    "Hpcc",
    "Network",
    "Nscc",
    "Pfc",
    "Rccc",
    "Swift",
]
