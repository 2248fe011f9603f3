"""No control at all: senders send at line rate, and PFC holds them back link by link."""

from dataclasses import dataclass
from typing import ClassVar

from starloom.fabric.packet.congestion.base import Control, Network
from starloom.fabric.packet.layout import PFC


@dataclass(frozen=True)
class Pfc(Control):
    """All gates stay open; meant for `full_queue: pause`."""

    code: ClassVar[int] = PFC

    def numbers(self, network: Network) -> list[float]:
        del network
        return []
