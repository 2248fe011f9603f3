"""Blocks on an SSD below the pool's memory, checksummed, found again after a restart."""

from starloom.kv.ssd.base import SsdStat
from starloom.kv.ssd.disk import Disk
from starloom.kv.ssd.segment import BadSlot, Segment, SegmentInUse
from starloom.kv.ssd.slots import Place, SlotTable
from starloom.kv.ssd.tier import SsdTier

__all__ = [
    "BadSlot",
    "Disk",
    "Place",
    "Segment",
    "SegmentInUse",
    "SlotTable",
    "SsdStat",
    "SsdTier",
]
