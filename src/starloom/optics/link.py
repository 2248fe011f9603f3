"""One link, read from one file: its fibres, spans, amplifiers, and what is sent over it."""

from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import Field, model_validator

from starloom.optics.base import (
    SPLICE_DB,
    Amplifier,
    Band,
    Fibre,
    GroundWire,
    Latency,
    Loss,
    Mode,
    Otdr,
    Protection,
    Section,
    Span,
    Transceiver,
)
from starloom.site import BadNames
from starloom.site.base import Count, Name, Noun
from starloom.site.errors import Loc
from starloom.site.files import load

Found = tuple[Loc, str, str]
_N = TypeVar("_N", bound=Fibre | Amplifier | Mode | Band)


class Link(Noun):
    """A link as its file states it. Names are of the catalogue, or of the file's own lists."""

    name: Name
    base: Path = Path()
    """The file's folder."""
    band: Annotated[tuple[Name, ...], Field(min_length=1)]
    mode: Name
    channels: Count | None = None
    """From the middle of the bands outward; as many as fit where absent."""
    spacing_ghz: Annotated[float, Field(gt=0)] | None = None
    """The mode's slot where absent."""
    launch_dbm: float
    """Of each channel, at the start of every span."""
    booster: Name | None = None
    """Limits the power into the first span; the links's amplifier where absent."""
    amplifier: Name
    spans: Annotated[tuple[Span, ...], Field(min_length=1, max_length=1000)]
    margin_db: Loss = 0.0
    """Kept back from every channel, for what the model does not know."""
    transceiver: Transceiver = Transceiver()
    latency: Latency = Latency()
    protection: Protection = Protection()
    otdr: Otdr = Otdr()
    ground_wire: GroundWire | None = None
    fibres: tuple[Fibre, ...] = ()
    amplifiers: tuple[Amplifier, ...] = ()
    modes: tuple[Mode, ...] = ()
    bands: tuple[Band, ...] = ()

    @classmethod
    def load(cls, path: Path) -> "Link":
        """Read a link file; raises `SiteError` with the line and the fix of every problem."""
        return load(cls, path)

    @model_validator(mode="after")
    def _names_hold(self) -> "Link":
        found = list(_unknown(self))
        if found:
            raise BadNames(found)
        spacing, slot = self.spacing_ghz, self.mode_noun.slot_ghz
        if spacing is not None and spacing < self.mode_noun.baud_gbd:
            what = f"{spacing:g} GHz are less than the mode's {self.mode_noun.baud_gbd:g} GBd"
            raise BadNames([(("spacing_ghz",), what, f"give {slot:g} or more")])
        for band in self.band_nouns:
            for name in self._amplifier_names():
                amplifier = self.amplifier_noun(name)
                if amplifier.from_thz > band.from_thz or amplifier.to_thz < band.to_thz:
                    what = f"amplifier {name!r} does not cover band {band.name!r}"
                    fix = "choose one that does, such as `edfa-cl-26`, or another band"
                    raise BadNames([(("amplifier",), what, fix)])
        return self

    def _amplifier_names(self) -> Iterator[str]:
        named = (span.amplifier for span in self.spans)
        yield from dict.fromkeys(n for n in (self.amplifier, self.booster, *named) if n is not None)

    @property
    def band_nouns(self) -> list[Band]:
        return [_named(self.bands, catalogue().bands, name) for name in self.band]

    @property
    def mode_noun(self) -> Mode:
        return self.mode_named(self.mode)

    def mode_named(self, name: str) -> Mode:
        return _named(self.modes, catalogue().modes, name)

    def all_modes(self) -> list[Mode]:
        """The file's own and the catalogue's; of two with one name the file's."""
        return list({m.name: m for m in (*catalogue().modes, *self.modes)}.values())

    def fibre(self, name: str) -> Fibre:
        return _named(self.fibres, catalogue().fibres, name)

    def amplifier_noun(self, name: str | None) -> Amplifier:
        """By name; the link's own where None."""
        return _named(self.amplifiers, catalogue().amplifiers, name or self.amplifier)

    @property
    def booster_noun(self) -> Amplifier:
        return self.amplifier_noun(self.booster)

    @property
    def line(self) -> list[Span]:
        """All spans in order, repeats written out."""
        return [span for span in self.spans for _ in range(span.repeat)]

    @property
    def km(self) -> float:
        return sum(span.repeat * span_km(span) for span in self.spans)

    def joints(self, span: Span) -> list[tuple[float, str]]:
        """(loss in dB, between what) of each joint between sections of a span, in order."""
        found: list[tuple[float, str]] = []
        for left, right in zip(span.sections, span.sections[1:], strict=False):
            kinds = sorted((self.fibre(left.fibre).kind, self.fibre(right.fibre).kind))
            loss = SPLICE_DB[kinds[0], kinds[1]] if left.joint_db is None else left.joint_db
            found.append((loss, f"{left.fibre}/{right.fibre}"))
        return found

    def splices_db(self, section: Section) -> float:
        """Loss of the splices between a section's drums."""
        fibre = self.fibre(section.fibre)
        if fibre.drum_km is None or section.loss_db_per_km is not None:
            return 0.0  # the loss of a cable on site includes its splices
        splices = max(0, -int(-section.km // fibre.drum_km) - 1)
        return splices * SPLICE_DB[fibre.kind, fibre.kind]

    def repairs_db(self, span: Span) -> float:
        """Loss that mending leaves behind: two splices a cut."""
        kind = self.fibre(span.sections[0].fibre).kind
        return 2 * span.repairs * SPLICE_DB[kind, kind]

    def changed(self, **fields: Any) -> "Link":
        """A copy with some fields replaced, checked again."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return Link.model_validate({**values, **fields})

    def laid_in(self, fibre: str) -> "Link":
        """The same route with every section of another fibre; losses are then its data sheet's."""
        spans = [
            span.model_copy(
                update={
                    "sections": tuple(
                        Section(fibre=fibre, km=part.km, gas=part.gas) for part in span.sections
                    )
                }
            )
            for span in self.spans
        ]
        return self.changed(spans=tuple(spans))


class Catalogue(Noun):
    """Parts that ship with the package, each with its source."""

    fibres: tuple[Fibre, ...]
    bands: tuple[Band, ...]
    amplifiers: tuple[Amplifier, ...]
    modes: tuple[Mode, ...]


@cache
def catalogue() -> Catalogue:
    """The package's own parts."""
    folder = resources.files("starloom.optics") / "catalogue"
    parts: dict[str, Any] = {}
    for name in ("fibres.yaml", "equipment.yaml"):
        parts |= yaml.safe_load((folder / name).read_text(encoding="utf-8"))
    return Catalogue.model_validate(parts)


def span_km(span: Span) -> float:
    """Length of a span's sections together."""
    return sum(section.km for section in span.sections)


def _named(own: Sequence[_N], shipped: Sequence[_N], name: str) -> _N:
    return next(noun for noun in (*own, *shipped) if noun.name == name)


def _unknown(link: Link) -> Iterator[Found]:
    shipped = catalogue()
    fibres = {fibre.name for fibre in (*link.fibres, *shipped.fibres)}
    amplifiers = {a.name for a in (*link.amplifiers, *shipped.amplifiers)}
    wanted: list[tuple[Loc, str | None, set[str]]] = [
        (("mode",), link.mode, {mode.name for mode in (*link.modes, *shipped.modes)}),
        (("amplifier",), link.amplifier, amplifiers),
        (("booster",), link.booster, amplifiers),
        (("protection", "diverse_fibre"), link.protection.diverse_fibre, fibres),
    ]
    bands = {band.name for band in (*link.bands, *shipped.bands)}
    wanted += [(("band", at), name, bands) for at, name in enumerate(link.band)]
    for at, span in enumerate(link.spans):
        wanted.append((("spans", at, "amplifier"), span.amplifier, amplifiers))
        for place, section in enumerate(span.sections):
            wanted.append((("spans", at, "sections", place, "fibre"), section.fibre, fibres))
    for loc, name, known in wanted:
        if name is not None and name not in known:
            yield loc, f"{name!r} is not known", f"use one of: {', '.join(sorted(known))}"
