"""All benches by name."""

from collections.abc import Callable

from starloom import __version__
from starloom.bench import (
    across,
    camv,
    disagg,
    eviction,
    fabric,
    facts,
    gateway,
    guard,
    kv,
    kvshare,
    optics,
    overload,
    plan,
    route,
    schedule,
    serve,
    skills,
)
from starloom.bench.base import BenchError, Options, Report, Results, Told, machine

BENCHES: dict[str, Callable[[Options, Told], Results]] = {
    "across": across.bench,
    "camv": camv.bench,
    "disagg": disagg.bench,
    "eviction": eviction.bench,
    "fabric": fabric.bench,
    "facts": facts.bench,
    "gateway": gateway.bench,
    "guard": guard.bench,
    "kv": kv.bench,
    "kvshare": kvshare.bench,
    "optics": optics.bench,
    "overload": overload.bench,
    "plan": plan.bench,
    "route": route.bench,
    "schedule": schedule.bench,
    "serve": serve.bench,
    "skills": skills.bench,
}


def run(name: str, options: Options, told: Told = lambda _: None) -> Report:
    """Run one bench; raises `BenchError` for an unknown name or when it cannot run."""
    if name not in BENCHES:
        raise BenchError(f"no bench {name!r}; there are: {', '.join(sorted(BENCHES))}")
    about = machine()
    results = BENCHES[name](options, told)
    return Report(
        bench=name,
        version=__version__,
        seed=options.seed,
        machine=about,
        rows=results.rows,
        notes=results.notes,
    )
