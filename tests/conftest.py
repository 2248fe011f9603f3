"""Fixtures that every room's tests may use."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real traces (STARLOOM_DATA); skips the test where it is absent."""
    folder = Path(os.environ.get("STARLOOM_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data at {folder} (set STARLOOM_DATA)")
    return folder


@pytest.fixture(scope="session")
def repository() -> Path:
    return ROOT
