"""What can go wrong in the `plan` room.

PlanError
├── BadPlan        a figure or a name that no plan can be made from; says where and what to give
├── IllegalCut     a cut of the model that cannot be; `constraint`, how far off, the nearest legal
one └── DoesNotFit     no cut of the space fits into memory; says the least that one needs
"""


class PlanError(Exception):
    """No plan; the message says why and what to do."""


class BadPlan(PlanError):
    """Asked with figures or names that mean nothing here."""


class IllegalCut(PlanError):
    """One constraint that a cut breaks, by how much, and what would be legal."""

    def __init__(self, constraint: str, what: str, fix: str) -> None:
        self.constraint = constraint
        self.fix = fix
        super().__init__(f"{constraint}: {what}; {fix}")


class DoesNotFit(PlanError):
    """Memory: the smallest of all cuts needs more than a chip has."""
