"""Gateways that share one view: load, prefixes and quotas, by telling each other what they did."""

from starloom.serve.peers.base import Bus, Counts, Spent, View
from starloom.serve.peers.board import Board
from starloom.serve.peers.loop import PeerLoop
from starloom.serve.peers.mesh import Mesh
from starloom.serve.peers.valkey import ValkeyBus

__all__ = ["Board", "Bus", "Counts", "Mesh", "PeerLoop", "Spent", "ValkeyBus", "View"]
