"""Fixtures that every room's tests may use."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

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


# A gate must judge the change, not the draw: new examples are for those who sit in front of it.
settings.register_profile("gate", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("gate")
