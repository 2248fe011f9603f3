"""Public parts that ship with the package, each figure with its source."""

from functools import cache
from pathlib import Path

from starloom.site.files import read_yaml
from starloom.site.hardware import Chip, Supernode
from starloom.site.links import LinkGeneration, LinkKind, ScaleUpProtocol, Switch
from starloom.site.models import ModelShape
from starloom.site.storage import StoragePath

_HERE = Path(__file__).parent


@cache
def chips() -> dict[str, Chip]:
    """Chips by name."""
    return {name: Chip(name=name, **data) for name, data in read_yaml(_HERE / "chips.yaml").items()}


@cache
def supernodes() -> dict[str, Supernode]:
    """Scale-up domains and what joins them, by name."""
    data = read_yaml(_HERE / "supernodes.yaml")
    return {name: Supernode(name=name, **one) for name, one in data.items()}


@cache
def shapes() -> dict[str, ModelShape]:
    """Model shapes by name."""
    data = read_yaml(_HERE / "models.yaml")
    return {name: ModelShape.model_validate(shape) for name, shape in data.items()}


@cache
def link_generations() -> dict[str, LinkGeneration]:
    """What collectives reach over each generation of links, by name."""
    data = read_yaml(_HERE / "link_generations.yaml")
    return {name: LinkGeneration(name=name, **one) for name, one in data.items()}


@cache
def link_kinds() -> dict[str, LinkKind]:
    """Copper, pluggable and co-packaged links of 800G, by name."""
    data = read_yaml(_HERE / "link_kinds.yaml")
    return {name: LinkKind(name=name, **one) for name, one in data.items()}


@cache
def switches() -> dict[str, Switch]:
    """Switches by name."""
    data = read_yaml(_HERE / "switches.yaml")
    return {name: Switch(name=name, **one) for name, one in data.items()}


@cache
def scale_up_protocols() -> dict[str, ScaleUpProtocol]:
    """Published figures of scale-up protocols, by name."""
    data = read_yaml(_HERE / "scale_up_protocols.yaml")
    return {name: ScaleUpProtocol(name=name, **one) for name, one in data.items()}


@cache
def storage_paths() -> dict[str, StoragePath]:
    """Ways between a shelf of drives and a GPU, by name."""
    data = read_yaml(_HERE / "storage_paths.yaml")
    return {name: StoragePath(name=name, **one) for name, one in data.items()}


@cache
def collectives_reference() -> tuple[tuple[str | int | float, ...], ...]:
    """Public measurements of collectives; the file's head names the columns."""
    return tuple(map(tuple, read_yaml(_HERE / "collectives_reference.yaml")["rows"]))
