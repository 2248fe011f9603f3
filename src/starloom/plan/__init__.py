"""How long things take and what they cost: compute and memory."""

from starloom.plan.step import Batch, OperatorCost, StepCost, step_time

__all__ = ["Batch", "OperatorCost", "StepCost", "step_time"]
