"""All benches by name."""

from collections.abc import Callable

from starloom import __version__
from starloom.bench import disagg, eviction, gateway, guard, overload, route, schedule, serve
from starloom.bench.base import BenchError, Options, Report, Results, Told, machine

BENCHES: dict[str, Callable[[Options, Told], Results]] = {
    "disagg": disagg.bench,
    "eviction": eviction.bench,
    "gateway": gateway.bench,
    "guard": guard.bench,
    "overload": overload.bench,
    "route": route.bench,
    "schedule": schedule.bench,
    "serve": serve.bench,
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
