"""How long one step of a serving engine takes: a roofline over what a batch computes and moves.

Each operator takes the longer of its arithmetic and its memory traffic (Williams et al.,
"Roofline", CACM 2009); operators run one after the other, and a step has a fixed cost besides.
FLOPs count a multiply-add as two. Figures of chips are the catalogue's, with their efficiency
factors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from starloom.site import Chip, ModelShape


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step computes."""

    prefill: Sequence[tuple[int, int]] = ()
    """(new tokens, tokens already in the KV cache) of each prefill chunk."""
    decode: Sequence[int] = ()
    """Tokens already in the KV cache, of each sequence that gets one more."""


@dataclass(frozen=True, slots=True)
class OperatorCost:
    """One operator of a step."""

    flops: float
    bytes: float
    compute_s: float
    memory_s: float

    @property
    def time_s(self) -> float:
        return max(self.compute_s, self.memory_s)


@dataclass(frozen=True, slots=True)
class StepCost:
    """Seconds of one step and of its parts."""

    matrices: OperatorCost
    """Projections and MLP of all layers."""
    attention: OperatorCost
    head: OperatorCost
    """Logits of each sequence's last token."""
    launch_s: float

    @property
    def total_s(self) -> float:
        return self.matrices.time_s + self.attention.time_s + self.head.time_s + self.launch_s


def step_time(chip: Chip, shape: ModelShape, batch: Batch) -> StepCost:
    """Cost of one step of `batch` on one chip that holds the whole model.

    - matrices: 2 FLOPs a weight and new token; the weights are read once. Of experts each token
      computes with the active ones, and the step reads those that any token went to.
    - attention: 4 * heads * head_dim FLOPs a layer and a (query, key) pair, causal within a chunk:
      n new tokens after c cached ones make n*c + n*(n+1)/2 pairs. KV is read once a sequence, and
      the new tokens' KV is written.
    - head: 2 * hidden * vocab FLOPs a sequence.

    An empty batch costs nothing.
    """
    chunks = [*batch.prefill, *((1, context) for context in batch.decode)]
    new = sum(tokens for tokens, _ in chunks)
    if new == 0:
        nothing = OperatorCost(0, 0, 0, 0)
        return StepCost(nothing, nothing, nothing, 0)
    used = shape.layers * shape.active_layer_weights
    read = shape.layers * _touched(shape, new)
    pairs = sum(n * c + n * (n + 1) / 2 for n, c in chunks)
    held = sum(n + c for n, c in chunks)
    head = shape.vocab * shape.hidden
    return StepCost(
        matrices=_cost(chip, shape, 2.0 * used * new, read * shape.weight_bytes),
        attention=_cost(
            chip,
            shape,
            4.0 * shape.layers * shape.heads * shape.head_dim * pairs,
            (held + new) * shape.kv_bytes_per_token,
        ),
        head=_cost(chip, shape, 2.0 * head * len(chunks), head * shape.weight_bytes),
        launch_s=chip.launch_us * 1e-6,
    )


def _touched(shape: ModelShape, tokens: int) -> float:
    """Weights a layer that `tokens` tokens touch: experts are drawn evenly and independently."""
    if shape.moe is None:
        return shape.layer_weights
    missed = (1 - shape.moe.active / shape.moe.experts) ** tokens
    experts = shape.moe_layers * shape.moe.experts * shape.expert_weights / shape.layers
    return shape.layer_weights - missed * experts


def _cost(chip: Chip, shape: ModelShape, flops: float, moved_bytes: float) -> OperatorCost:
    wide = shape.weight_bytes == 4 and chip.fp32_tflops is not None
    peak_tflops = chip.fp32_tflops if wide else chip.bf16_tflops
    assert peak_tflops is not None  # noqa: S101 - `wide` says so
    return OperatorCost(
        flops=flops,
        bytes=moved_bytes,
        compute_s=flops / (peak_tflops * 1e12 * chip.compute_efficiency),
        memory_s=moved_bytes / (chip.memory_gb_per_s * 1e9 * chip.memory_efficiency),
    )
