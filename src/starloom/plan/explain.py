"""The tree behind a number: every part with its formula and the inputs that went in.

Nothing is computed anew: the leaves are the operators and parts that `evaluate` adds up, so the
tree's sums are the estimate's.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from starloom.plan.base import Cluster, Cuts, Job
from starloom.plan.layer import Shard, layer_cost
from starloom.plan.memory import busiest_layers
from starloom.plan.operators import Op
from starloom.plan.train import Estimate, evaluate
from starloom.site import ModelShape

FORMULAS = {
    "compute_s": "microbatches x layers of the fullest stage x a layer's kernels, and the head",
    "tp_s": "microbatches x layers x all-gathers and reduce-scatters of activations, not hidden",
    "cp_s": "microbatches x layers x (all-gather of keys and values - attention that covers it)",
    "ep_s": "microbatches x layers x (dispatch + combine) x (1 - hidden), both ways",
    "pp_s": "sends between stages while the pipeline fills, or always where not overlapped",
    "dp_s": "reduction and gathering beyond what the last backward and first forward pass cover",
    "bubble_s": "idle while the pipeline fills and drains: (p - 1)/v of a stage's time for 1F1B",
    "optimizer_s": "34 bytes a parameter of the shard, 4 of each held, over memory bandwidth",
    "straggler_s": "spread x sqrt(2 ln chips): the slowest of many is late",
}
MEMORY = {
    "weights": "2 bytes a parameter held",
    "gradients": "4 bytes a parameter (2 where the software keeps bf16)",
    "optimizer": "12 bytes a parameter over the ZeRO group",
    "activations": "kept of each microbatch in flight on the fuller of the first and last stage",
    "working": "logits at the peak, temporaries of one layer",
}


@dataclass(frozen=True, slots=True)
class Node:
    """One number, how it came about, and what it is made of."""

    name: str
    value: float
    unit: str
    formula: str = ""
    inputs: dict[str, float | str] = field(default_factory=dict)
    children: tuple["Node", ...] = ()

    def lines(self, depth: int = 0) -> Iterator[str]:
        """The tree as indented text."""
        given = ", ".join(f"{k} {_short(v)}" for k, v in self.inputs.items())
        tail = "; ".join(part for part in (self.formula, given) if part)
        yield f"{'  ' * depth}{self.name}: {_short(self.value)} {self.unit}" + (
            f"   [{tail}]" if tail else ""
        )
        for child in self.children:
            yield from child.lines(depth + 1)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "formula": self.formula,
            "inputs": self.inputs,
            "children": [child.as_dict() for child in self.children],
        }


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,.4g}"


def explain(shape: ModelShape, job: Job, cluster: Cluster, cuts: Cuts, at: int = 0) -> Node:
    """The tree of one cut's step time, with its memory beside it."""
    cut = cuts.take(np.array([at]))
    estimate = evaluate(shape, job, cluster, cut)
    full, _ = busiest_layers(shape, cut)
    m = float(cut.microbatches[0])
    layers = float(shape.layers if cut.pp[0] == 1 else full[0])
    children = []
    for name in Estimate.PARTS:
        value = float(getattr(estimate, name)[0])
        inner = _kernels(shape, job, cluster, cut) if name == "compute_s" else ()
        inputs: dict[str, float | str] = {}
        if name in ("compute_s", "tp_s", "ep_s", "cp_s"):
            inputs = {"microbatches": m, "layers": layers}
        if name == "bubble_s":
            inputs = {
                "p": float(cut.pp[0]),
                "v": float(cut.vp[0]),
                "schedule": str(cut.row(0)["schedule"]),
            }
        if name in ("tp_s", "ep_s"):
            hidden = getattr(cluster.profile, name.replace("_s", "_hidden"))
            inputs["hidden"] = float(hidden)
        if name == "straggler_s":
            inputs = {"spread": cluster.profile.straggler, "chips": float(cut.world[0])}
        children.append(Node(name.removesuffix("_s"), value, "s", FORMULAS[name], inputs, inner))
    step = Node(
        "step",
        float(estimate.step_s[0]),
        "s",
        "the sum of its parts",
        {"profile": cluster.profile.name, "chip": cluster.chip.name},
        tuple(children),
    )
    memory = Node(
        "memory",
        float(estimate.memory.needed[0]) / 2**30,
        "GiB",
        "allocated x 1.03 for fragmentation + 1.5 GiB outside the framework",
        {"of": cluster.chip.memory_gib},
        tuple(
            Node(name, float(getattr(estimate.memory, name)[0]) / 2**30, "GiB", formula)
            for name, formula in MEMORY.items()
        ),
    )
    rate = Node(
        "tokens/s a chip",
        float(estimate.tokens_per_s_chip[0]),
        "1/s",
        "batch x sequence / step / chips",
        {
            "batch": float(cut.gbs[0]),
            "sequence": float(job.seq_tokens),
            "chips": float(cut.world[0]),
        },
    )
    mfu = Node("MFU", float(estimate.mfu[0]), "of the bf16 peak")
    return Node(
        "plan", float(estimate.step_s[0]), "s", "", dict(cut.row(0)), (step, memory, rate, mfu)
    )


def _kernels(shape: ModelShape, job: Job, cluster: Cluster, cut: Cuts) -> tuple[Node, ...]:
    """A layer's operators: FLOPs, bytes, and the longer of both over what the chip reaches."""
    cost = layer_cost(shape, job, cluster, Shard(cut.tp, cut.cp, cut.ep, cut.mbs))
    groups: list[tuple[str, list[Op], float]] = [
        ("attention", cost.attention, 1.0),
        ("MLP", cost.dense, cost.dense_share),
        ("experts", cost.experts, 1 - cost.dense_share),
    ]
    found = []
    for name, ops, share in groups:
        if not ops or share <= 0:
            continue
        leaves = tuple(
            Node(
                op.name,
                1e6 * float((op.forward_s + op.backward_s)[0]),
                "us",
                "max(FLOPs / rate, bytes / bandwidth) + launch, forward and backward",
                {
                    "forward_us": 1e6 * float(op.forward_s[0]),
                    "GFLOP": 1e-9 * float(op.flops[0]),
                    "MB": 1e-6 * float(np.broadcast_to(op.bytes, op.flops.shape)[0]),
                },
            )
            for op in ops
        )
        total = sum(leaf.value for leaf in leaves)
        inputs: dict[str, float | str] = {"share of layers": share}
        found.append(Node(f"one layer's {name}", total, "us", "a microbatch", inputs, leaves))
    return tuple(found)
