"""Drawn agent traces in tau-bench's form, where there are no real ones: orders, parts, depots."""

import json
import random
from typing import Any


def drawn_traces(seed: int, count: int) -> list[dict[str, Any]]:
    """Each asks for an order, then for its parts' stock, then moves one part from a depot."""
    rng = random.Random(f"traces {seed}")
    return [_trace(rng, at) for at in range(count)]


def _trace(rng: random.Random, at: int) -> dict[str, Any]:
    order = f"O{rng.randrange(10_000, 99_999)}"
    parts = [f"P{rng.randrange(10_000, 99_999)}" for _ in range(rng.randint(2, 5))]
    chosen = rng.choice(parts)
    depots = {
        f"D{rng.randrange(1000, 9999)}": rng.randrange(0, 40) for _ in range(rng.randint(3, 8))
    }
    depot = max(depots, key=lambda it: depots[it])
    account = f"account_{rng.randrange(10_000_000, 99_999_999)}"
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Move parts between depots."},
        {"role": "user", "content": f"Please look at {order} and deliver what is needed."},
    ]
    opened = {
        "order": order,
        "account": account,
        "opened": "2025-03-01",
        "lines": [
            {"part": part, "amount": rng.randint(1, 9), "text": f"{part} as listed, grade A"}
            for part in parts
        ],
        "address": {"street": f"{rng.randint(1, 99)} Road", "zip": str(rng.randint(1, 9999))},
    }
    _call(messages, "get_order", {"order": order}, opened)
    messages.append({"role": "assistant", "content": f"The order lists {len(parts)} parts."})
    messages.append(
        {
            "role": "user",
            "content": f"Deliver {chosen[:3]}... the one in line {parts.index(chosen) + 1}.",
        }
    )
    stock = [
        {"depot": it, "stock": n, "open": "08:00", "phone": f"0{rng.randrange(10**8)}"}
        for it, n in depots.items()
    ]
    _call(messages, "get_stock", {"part": chosen}, stock)
    messages.append({"role": "assistant", "content": f"Depot {depot} has most of it."})
    messages.append({"role": "user", "content": "Take it from there."})
    moved = {"part": chosen, "depot": depot, "account": account}
    _call(messages, "move", moved, {"moved": True, **moved})
    return {"task_id": at, "trial": 0, "reward": 1.0, "traj": messages}


def _call(
    messages: list[dict[str, Any]], tool: str, arguments: dict[str, Any], answer: object
) -> None:
    id_ = f"call_{len(messages)}"
    call = {"function": {"name": tool, "arguments": json.dumps(arguments)}, "id": id_}
    messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
    messages.append(
        {"role": "tool", "tool_call_id": id_, "name": tool, "content": json.dumps(answer)}
    )
