"""Operators on one chip: a roofline with measured efficiencies, over arrays of shapes.

Every operator takes the longer of its arithmetic and its memory traffic (Williams et al.,
"Roofline", CACM 2009) and a launch besides. FLOPs count a multiply-add as two. Times are seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starloom.plan.errors import BadPlan
from starloom.plan.profiles import Profile
from starloom.site import Chip

Array = NDArray[np.float64]
TILES = ((128, 256, 1.0), (128, 128, 0.9), (64, 128, 0.7), (64, 64, 0.5))
"""Rows and columns of output tiles, and the rate of small ones against the largest: their inputs
are read more often. Ours, from the measured rows of small products."""
BACKWARD_ATTENTION = 0.8
"""Rate of a fused attention's backward pass over the forward's: 0.86 in FlashAttention-2 (arXiv
2307.08691, A100: 63 % to 73 % of peak), 0.75 in -3 (arXiv 2407.08608)."""
GEMM_BYTES = {
    "bf16": 2.0,
    "fp8": 1.0,
    "mxfp8": 1.0 + 1 / 32,
    "nvfp4": 0.5 + 1 / 16,
    "int8": 1.0,
    "w4a16": 0.5 + 1 / 16,
}
"""Of one weight as products read it, block scales included."""
WEIGHT_ONLY = ("w4a16",)
"""Weights are widened on the way: products run at the rate of bf16, activations are not cast."""


@dataclass(frozen=True, slots=True)
class Op:
    """One operator of a layer, per microbatch and chip; arrays of one shape."""

    name: str
    kind: str
    """`gemm`, `attention`, `stream`."""
    flops: Array
    """Forward."""
    bytes: Array
    """To and from memory, forward."""
    forward_s: Array
    input_s: Array
    """Backward to the inputs."""
    weight_s: Array
    """Backward to the weights: what zero-bubble schedules move into bubbles."""
    launches: float = 0.0
    """Kernels that a host issues, forward and backward."""

    @property
    def backward_s(self) -> Array:
        return self.input_s + self.weight_s


@dataclass(frozen=True)
class Kernels:
    """Times of kernels on one chip under one profile."""

    chip: Chip
    profile: Profile
    precision: str = "bf16"

    def __post_init__(self) -> None:
        if self.precision not in GEMM_BYTES:
            raise BadPlan(f"no precision {self.precision!r}; there are: {', '.join(GEMM_BYTES)}")
        if self.chip.bf16_tflops and self._peak_tflops(self.precision) is None:
            raise BadPlan(
                f"chip {self.chip.name!r} has no figure for {self.precision}: state"
                " `fp8_tflops`, `fp4_tflops` or `int8_tops`, or plan in bf16"
            )

    def _peak_tflops(self, precision: str) -> float | None:
        chip = self.chip
        peaks = {
            "bf16": chip.bf16_tflops,
            "w4a16": chip.bf16_tflops,
            "nvfp4": chip.fp4_tflops,
            "int8": chip.int8_tops,
        }
        return peaks.get(precision, chip.fp8_tflops)

    def rate(self, precision: str) -> float:
        """FLOP/s of large products."""
        profile = self.profile
        shares = {"bf16": profile.gemm, "w4a16": profile.gemm, "nvfp4": profile.gemm_fp4}
        return 1e12 * (self._peak_tflops(precision) or 0) * shares.get(precision, profile.gemm_fp8)

    @property
    def bandwidth(self) -> float:
        """Bytes/s of streaming."""
        return 1e9 * self.chip.memory_gb_per_s * self.profile.memory

    @property
    def launch_s(self) -> float:
        return 1e-6 * self.profile.launch_us

    def filled(self, m: Array, n: Array) -> Array:
        """Share of the chip's cores that output tiles keep busy, of the best tile size.

        ceil(m/tm) ceil(n/tn) tiles run in waves of as many as there are cores; the last wave and
        the padding of edge tiles are wasted: m n / (waves cores tm tn).
        """
        cores = self.chip.cores or 1
        best = np.zeros(np.broadcast_shapes(np.shape(m), np.shape(n)))
        for rows, columns, rate in TILES:
            waves = np.ceil(np.ceil(m / rows) * np.ceil(n / columns) / cores)
            best = np.maximum(best, rate * m * n / (waves * cores * rows * columns))
        return best

    def gemm_s(
        self,
        m: Array,
        n: Array,
        k: Array,
        precision: str | None = None,
        *,
        groups: Array | float = 1,
        out_bytes: float = 2.0,
    ) -> Array:
        """A product of (m, k) and (k, n), `groups` times side by side in one kernel.

        Below 16 bits the inputs are read in 16 bits, scaled and written once more before.
        """
        kind = self.precision if precision is None else precision
        size = GEMM_BYTES[kind]
        cast = size < 2 and kind not in WEIGHT_ONLY
        rate = self.rate(kind) * (1.0 if np.all(np.asarray(groups) == 1) else self.profile.grouped)
        compute = groups * 2.0 * m * n * k / rate
        if self.profile.wave:
            compute = compute / np.maximum(self.filled(m, groups * n), 1e-9) ** self.profile.wave
        moved = groups * (size * (m * k + k * n) + out_bytes * m * n)
        time = np.maximum(compute, moved / self.bandwidth) + self.launch_s
        if cast:
            time = time + groups * m * k * (2 + size) / self.bandwidth
            time = time + 1e-6 * self.profile.quantise_us
        return np.where(m * n * k > 0, time, 0.0)

    def gemm(
        self,
        name: str,
        m: Array,
        n: Array,
        k: Array,
        precision: str | None = None,
        *,
        groups: Array | float = 1,
        weight: bool = True,
    ) -> Op:
        """A layer's product with both of its backward products: dX (m, n, k), dW (k, m, n).

        dW is added to a gradient in fp32: 4 bytes read and 4 written for each weight.
        """
        kind = self.precision if precision is None else precision
        casts = 2 if GEMM_BYTES[kind] < 2 else 1
        zero = np.zeros(np.broadcast_shapes(np.shape(m), np.shape(n), np.shape(k)))
        return Op(
            name,
            "gemm",
            flops=zero + groups * 2.0 * m * n * k,
            bytes=zero + groups * (GEMM_BYTES[kind] * (m * k + k * n) + 2.0 * m * n),
            forward_s=zero + self.gemm_s(m, n, k, kind, groups=groups),
            input_s=zero + self.gemm_s(m, k, n, kind, groups=groups),
            weight_s=zero
            + (self.gemm_s(k, n, m, kind, groups=groups, out_bytes=8.0) if weight else 0.0),
            launches=casts * (3.0 if weight else 2.0),
        )

    def stream(
        self, name: str, forward_bytes: Array, backward_bytes: Array, launches: int = 1
    ) -> Op:
        """What only moves bytes: norms, activations, residuals, permutations."""
        some = np.asarray(forward_bytes) > 0
        return Op(
            name,
            "stream",
            flops=np.zeros_like(forward_bytes),
            bytes=forward_bytes,
            forward_s=np.where(
                some, forward_bytes / self.bandwidth + launches * self.launch_s, 0.0
            ),
            input_s=np.where(some, backward_bytes / self.bandwidth + launches * self.launch_s, 0.0),
            weight_s=np.zeros_like(forward_bytes),
            launches=2.0 * launches,
        )

    def flash(
        self, name: str, pairs: Array, heads: Array, wide: int, values: int, moved: Array
    ) -> Op:
        """Fused attention over `pairs` (query, key) pairs, `wide` and `values` numbers a head.

        Forward 2 pairs (wide + values) FLOPs a head; backward 2.5 times: five products for two.
        """
        flops = 2.0 * pairs * heads * (wide + values)
        rate = 1e12 * self.chip.bf16_tflops * self.profile.attention
        floor = moved / self.bandwidth
        return Op(
            name,
            "attention",
            flops=flops,
            bytes=moved,
            forward_s=np.maximum(flops / rate, floor) + self.launch_s,
            input_s=np.maximum(2.5 * flops / rate / BACKWARD_ATTENTION, 2 * floor)
            + 2 * self.launch_s,
            weight_s=np.zeros_like(flops),
            launches=3.0,
        )


def total(ops: Sequence[Op], field: str) -> Array:
    """The sum of one field over operators."""
    result: Array = np.asarray(sum(getattr(op, field) for op in ops), dtype=np.float64)
    return result
