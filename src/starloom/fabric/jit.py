"""Functions that Numba compiles: `numba.njit(cache=True)` with types and a clear error.

- `jit`: any function.
- `entry` and `step`: for event loops over arrays that somebody else owns. They allocate nothing,
  so they count no references (which costs four fifths of a loop's time), and a `step` can be called
  from compiled code only, so it needs no wrapper (which costs most of its compilation).

Without Numba (the extra `sim`) a module that uses them still imports; only a call raises
`NoSimulator`. The plain function of a `jit` stays reachable as `.py_func`, as oracle of a test.

Numba's cache on disk is valid while the *function's own* file is unchanged, and would serve old
code when a function that it calls, in another file, has changed. Here the stamp covers every file
of the function's folder, and the files of `fabric/` whose constants compiled code reads.
"""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from starloom.fabric.errors import NoSimulator

try:
    import numba
except ImportError:
    numba = None

F = TypeVar("F", bound=Callable[..., Any])
_ROOM = Path(__file__).resolve().parent
_SHARED = (_ROOM / "clos.py", _ROOM / "jit.py")


def jit(function: F) -> F:
    """Compile at the first call, keep the code on disk; division follows IEEE 754, as NumPy's."""
    return _compiled(function)


def entry(function: F) -> F:
    """As `jit`, for a function that allocates nothing."""
    return _compiled(function, _nrt=False)


def step(function: F) -> F:
    """As `entry`, for a function that only compiled code calls."""
    return _compiled(function, _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def _compiled(function: F, **options: bool) -> F:
    if numba is None:

        @functools.wraps(function)
        def missing(*_: Any, **__: Any) -> Any:
            raise NoSimulator(
                f"{function.__name__} is compiled by Numba, which is not installed:"
                " pip install 'starloom[sim]'"
            )

        return cast(F, missing)
    compiled = numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function)
    _stamp_with_neighbours(compiled, Path(function.__code__.co_filename).resolve().parent)
    return cast(F, compiled)


def _stamp_with_neighbours(compiled: Any, folder: Path) -> None:
    cache_file: Any = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if hasattr(cache_file, "_source_stamp"):  # Numba has no public way to widen it
        cache_file._source_stamp = (cache_file._source_stamp, _digest(folder))  # noqa: SLF001


@functools.cache
def _digest(folder: Path) -> str:
    """Changes when any source in `folder` (and below) or of `_SHARED` does."""
    seen = hashlib.blake2b(digest_size=8)
    for path in sorted({*folder.rglob("*.py"), *_SHARED}):
        found = path.stat()
        seen.update(f"{path}:{found.st_size}:{found.st_mtime_ns};".encode())
    return seen.hexdigest()
