"""Published claims, each a file that runs: the source's figures beside ours, misses included."""

from starloom.studies import dpu_path, kv_hits
from starloom.studies.base import Figure, Findings, Options, Study, StudyError, Told
from starloom.studies.picture import write_svg

STUDIES: dict[str, Study] = {
    "dpu-path": dpu_path,
    "kv-hits": kv_hits,
}

__all__ = [
    "STUDIES",
    "Figure",
    "Findings",
    "Options",
    "Study",
    "StudyError",
    "Told",
    "run",
    "write_svg",
]


def run(name: str, options: Options, told: Told = lambda _: None) -> Findings:
    """Run one study; raises `StudyError` for an unknown name or when it cannot run."""
    if name not in STUDIES:
        raise StudyError(f"no study {name!r}; there are: {', '.join(sorted(STUDIES))}")
    return STUDIES[name].run(options, told)
