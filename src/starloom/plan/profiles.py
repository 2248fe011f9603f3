"""Efficiency profiles: how near to a chip's peaks one release of kernels and software comes.

A profile has at most ten physical parameters that were fitted, and names them with the rows that
they were fitted to; whatever else a software does is a stated fact (does it overlap gradients? does
it remove duplicates before tokens leave a supernode?), never a number turned to match a row.
"""

import re
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field

from starloom.plan.errors import BadPlan
from starloom.site.base import Name, Noun
from starloom.site.files import read_yaml

Share = Annotated[float, Field(gt=0, le=1)]
Hidden = Annotated[float, Field(ge=0, le=1)]
MOST_FITTED = 10
BRIDGE = "-bridge-"
"""Megatron-Bridge's releases: preferred where a chip has them, since they are tested most."""


class Profile(Noun):
    """One chip under one release of software."""

    name: Name
    chip: Name
    release: str
    gemm: Share = 0.75
    """Of the bf16 peak, by large matrix products."""
    gemm_fp8: Share = 0.6
    gemm_fp4: Share = 0.4
    grouped: Share = 0.8
    """What grouped products of experts keep of the above."""
    attention: Share = 0.55
    """Of the bf16 peak, by the forward pass of a fused attention."""
    memory: Share = 0.8
    """Of the memory's bandwidth, by streaming kernels."""
    launch_us: Annotated[float, Field(ge=0)] = 4.0
    """Of each kernel: start and drain, what neither FLOPs nor bytes explain."""
    quantise_us: Annotated[float, Field(ge=0)] = 0.0
    """Beside, of each product with inputs below 16 bits: the kernels that scale and cast them."""
    wave: Annotated[float, Field(ge=0, le=1.5)] = 0.0
    """Exponent on the share of the last wave of tiles that is filled: 0 hides waves, 1 bares
    them."""
    host_us: Annotated[float, Field(ge=0)] = 0.0
    """Of each serving step: scheduler, sampling, detokenising."""
    first_us: Annotated[float, Field(ge=0)] = 0.0
    """Of each request before its first token: parsing, tokenising, queues between processes."""
    burst: Annotated[float, Field(ge=0)] = 0.1
    """Share of all requests under way that wait for their first token together: equal lengths make
    them end, and so begin, in waves."""
    issue_us: Annotated[float, Field(ge=0)] = 0.0
    """Of the host, to issue one kernel of training: a layer is never faster than its host."""
    tp_hidden: Hidden = 0.0
    """Share of tensor-parallel communication that runs under products."""
    ep_hidden: Hidden = 0.0
    """Share of dispatch and combine that runs under other work."""
    straggler: Annotated[float, Field(ge=0)] = 0.0
    """Spread of a chip's step time over the mean; the slowest of n is sqrt(2 ln n) of them late."""
    overlap_dp: bool = True
    """Gradients and weights move under the last backward and the first forward pass."""
    overlap_pp: bool = True
    """Sends between stages run under the next chunk's work where there is one."""
    scatter_gather: bool = True
    """Of what goes to the next stage each TP rank sends its share (arXiv 2104.04473, section
    4.1)."""
    dedup: bool = False
    """A token goes to each supernode once, whatever the number of its experts there (DeepEP)."""
    grad_bytes: Annotated[int, Field(ge=2, le=4)] = 4
    """Of one gradient as it is kept and reduced."""
    fitted: tuple[str, ...] = Field(default=(), max_length=MOST_FITTED)
    """Names of the parameters that a fit set."""
    fitted_on: str = ""
    """Which rows of which table; all others are for checking."""
    error_pct: Annotated[float, Field(gt=0)] = 30.0
    """Mean relative error on rows that were not fitted, or with each model left out: the interval
    that a prediction is printed with. 30 where nothing was fitted: assumed."""
    source: str

    @property
    def released(self) -> tuple[int, ...]:
        """The release's numbers, to order releases by; none come first."""
        return tuple(int(part) for part in re.findall(r"\d+", self.release))


@cache
def profiles() -> dict[str, Profile]:
    """Profiles that ship with the package, by name."""
    data = read_yaml(Path(__file__).with_name("profiles.yaml"))
    shared = {name: one for name, one in data.items() if name.startswith("_")}
    found = {}
    for name, one in data.items():
        if name not in shared:
            like = shared.get(one.pop("like", ""), {})
            found[name] = Profile(name=name, **{**like, **one})
    return found


def profile(name: str) -> Profile:
    """The profile of that name; raises `BadPlan` where there is none."""
    if name not in profiles():
        raise BadPlan(f"no profile {name!r}; there are: {', '.join(sorted(profiles()))}")
    return profiles()[name]


def profile_of(chip: str, *, serving: bool = False) -> Profile:
    """The newest fitted profile of a chip for training or serving; else its defaults."""
    kind = "serve" if serving else "train"
    named = [p for p in profiles().values() if p.chip == chip and p.name.startswith(kind)]
    if named:
        return max(named, key=lambda p: (bool(p.fitted), BRIDGE in p.name, p.released, p.name))
    return Profile(
        name=f"{kind}-{chip}",
        chip=chip,
        release="none",
        source="defaults: no table of this chip was fitted; expect errors of tens of percent",
    )
