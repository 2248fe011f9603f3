"""Public parts that ship with the package, each figure with its source."""

from functools import cache
from pathlib import Path

from starloom.site.files import read_yaml
from starloom.site.hardware import Chip
from starloom.site.models import ModelShape

_HERE = Path(__file__).parent


@cache
def chips() -> dict[str, Chip]:
    """Chips by name."""
    return {name: Chip(name=name, **data) for name, data in read_yaml(_HERE / "chips.yaml").items()}


@cache
def shapes() -> dict[str, ModelShape]:
    """Model shapes by name."""
    data = read_yaml(_HERE / "models.yaml")
    return {name: ModelShape.model_validate(shape) for name, shape in data.items()}
