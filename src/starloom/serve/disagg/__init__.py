"""Prefill and decode on servers of others: how two of them share one request."""

from starloom.serve.disagg.base import Fail, Handover, Leg, Retry, Send, Side, Step
from starloom.serve.disagg.sglang import ROOM_BITS, SglangHandover
from starloom.serve.disagg.vllm import VllmHandover, undivided

__all__ = [
    "ROOM_BITS",
    "Fail",
    "Handover",
    "Leg",
    "Retry",
    "Send",
    "SglangHandover",
    "Side",
    "Step",
    "VllmHandover",
    "undivided",
]
