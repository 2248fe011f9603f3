"""starloom plans, simulates and runs an AI factory."""

from importlib.metadata import version

__version__ = version("starloom")
