"""An open, Ethernet-compatible link inside a supernode, as a model that runs."""

from starloom.fabric.scaleup.base import Address, Atomic, Fault, Frame, Op, Reduction, Transaction
from starloom.fabric.scaleup.codec import decode, efficiency, encode
from starloom.fabric.scaleup.errors import BadFrame, BadSupernode, BadTransaction, Refused
from starloom.fabric.scaleup.port import LinkConfig
from starloom.fabric.scaleup.supernode import Handle, Node, Supernode
from starloom.fabric.scaleup.windows import Right, Window, Windows

__all__ = [
    "Address",
    "Atomic",
    "BadFrame",
    "BadSupernode",
    "BadTransaction",
    "Fault",
    "Frame",
    "Handle",
    "LinkConfig",
    "Node",
    "Op",
    "Reduction",
    "Refused",
    "Right",
    "Supernode",
    "Transaction",
    "Window",
    "Windows",
    "decode",
    "efficiency",
    "encode",
]
