"""The network of an AI factory: topology, two cores over one scenario, collectives."""

from starloom.fabric.base import Core, Flows, Result
from starloom.fabric.clos import Clos, Stage
from starloom.fabric.errors import BadScenario, FabricError, NoPlots, NoSimulator, TooLarge
from starloom.fabric.scenario import Scenario, Transport

__all__ = [
    "BadScenario",
    "Clos",
    "Core",
    "FabricError",
    "Flows",
    "NoPlots",
    "NoSimulator",
    "Result",
    "Scenario",
    "Stage",
    "TooLarge",
    "Transport",
]
