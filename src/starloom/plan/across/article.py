"""The arithmetic of ZTE Technologies, April 2026, p. 34-35, exactly; its slips beside it.

Two slips of the source:

- Tokens a second and GPU are printed as b s / T / N. One batch is worked off by the p t GPUs of one
  replica, so N must be p t (292.8 tokens/s); as printed the figure is 16 times too low.
- The factor GBS / d = 128 that turns one GPU's bandwidth into the line's has no meaning of its own:
  it equals 2 p t = 128, the flows that cross the border (64 rings, each of which crosses it twice).
  With another batch size the printed form would be wrong; `line_tbps` counts flows.
"""

from dataclasses import dataclass

from starloom.plan.across.base import HALF_BYTES, Across


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Figures of one run, in the source's symbols."""

    t_batch_s: float
    """6 psi b s / (p t P)."""
    batches: int
    """Of one step and replica: GBS / (b d)."""
    t_cal_s: float
    """T_DP,cal: compute of one step."""
    d_dp_bytes: float
    """D_DP: what a GPU sends for one all-reduce, 2 psi / (p t) weights of 2 bytes."""
    flows: int
    """Over the border: 2 p t."""
    gpu_gbytes_per_s: tuple[float, float]
    """For an all-reduce in 5 % and in 1 % of T_DP,cal."""
    line_tbps: tuple[float, float]
    """Of all flows together, likewise."""
    waves_800g: int
    """That carry the line's capacity."""
    convergence: float
    """Capacity of the first site's GPUs over the line's."""
    tgs: float
    """Tokens a second and GPU, compute alone: b s / T_batch / (p t)."""
    tgs_printed: float
    """As the source prints it: divided by N."""
    flow_s: float
    """D_DP over one flow's share of the line."""


def t_batch_s(run: Across) -> float:
    """Compute of one batch on one replica; the slowest site's where they differ."""
    flops = 6 * run.params_b * 1e9 * run.batch * run.sequence
    return flops / (run.replica_gpus * min(run.speeds) * 1e12)


def t_cal_s(run: Across) -> float:
    """Compute of one step."""
    return t_batch_s(run) * batches(run)


def batches(run: Across) -> int:
    return run.global_batch // (run.batch * run.data)


def gradient_bytes(run: Across) -> float:
    """Of one GPU, once: psi / (p t) weights of 2 bytes."""
    return run.params_b * 1e9 / run.replica_gpus * HALF_BYTES


def flows(run: Across) -> int:
    """Over a border: p t rings, each of which crosses it twice."""
    return 2 * run.replica_gpus


def arithmetic(run: Across) -> Arithmetic:
    """All of it. With GPUs of several speeds, of the slowest."""
    batch_s, step_s = t_batch_s(run), t_cal_s(run)
    moved = 2 * gradient_bytes(run)
    per_gpu = moved / (0.05 * step_s) / 1e9, moved / (0.01 * step_s) / 1e9
    crossing = flows(run)
    tokens = run.batch * run.sequence / batch_s
    capacity = run.sites[0].gpus * run.nic_gbps / 1e3
    return Arithmetic(
        t_batch_s=batch_s,
        batches=batches(run),
        t_cal_s=step_s,
        d_dp_bytes=moved,
        flows=crossing,
        gpu_gbytes_per_s=per_gpu,
        line_tbps=(per_gpu[0] * crossing * 8 / 1e3, per_gpu[1] * crossing * 8 / 1e3),
        waves_800g=-int(-run.line_tbps * 1e3 // 800),
        convergence=capacity / run.line_tbps,
        tgs=tokens / run.replica_gpus,
        tgs_printed=tokens / sum(site.gpus for site in run.sites),
        flow_s=moved * crossing * 8 / (run.line_tbps * 1e12),
    )
