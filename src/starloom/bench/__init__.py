"""Benches: each measures in its own run and prints rows; nothing is typed in."""

from starloom.bench.base import BenchError, Options, Report, Row
from starloom.bench.registry import BENCHES, run

__all__ = ["BENCHES", "BenchError", "Options", "Report", "Row", "run"]
