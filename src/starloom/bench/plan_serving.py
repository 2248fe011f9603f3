"""Measured serving tables: first-token and per-token times, and throughput at full load.

A profile is fitted for each chip and engine to the rows of `FITTED` models; all other models are
the check. Peaks' shares come from the operator tables of the same chip, so that few parameters are
left.
"""

import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from starloom.bench.plan_cases import Row, network, number, read
from starloom.plan.base import Cluster
from starloom.plan.calibrate import Fit, Free, fit
from starloom.plan.profiles import Profile
from starloom.plan.serving import Latency, Layouts, Server, Serving, apart, together
from starloom.site import catalogue

Array = NDArray[np.float64]
SYSTEMS = {
    "h100_sxm": ("h100-sxm", "dgx-h100"),
    "h200_sxm": ("h200-sxm", "dgx-h200"),
    "b200_sxm": ("b200-sxm", "dgx-b200"),
    "b300_sxm": ("b300-sxm", "dgx-b300"),
    "gb200": ("gb200", "gb200-nvl72"),
    "gb300": ("gb300", "gb300-nvl72"),
}
MODELS = (
    ("deepseek-r1", "deepseek-v3"),
    ("deepseek-v3", "deepseek-v3"),
    ("minimax-m2", "minimax-m2.5"),
    ("llama-3.1-70b", "llama-3-70b"),
    ("llama-3.3-70b", "llama-3-70b"),
    ("llama-3.1-8b", "llama-3-8b"),
    ("llama-4-maverick", "llama-4-maverick"),
    ("gpt-oss-120b", "gpt-oss-120b"),
    ("gpt-oss-20b", "gpt-oss-20b"),
    ("qwen3.5-397b", "qwen3.5-397b-a17b"),
    ("qwen3-32b", "qwen3-32b"),
    ("qwen3-235b", "qwen3-235b-a22b"),
    ("qwen3-30b", "qwen3-30b-a3b"),
    ("qwen3-8b", "qwen3-8b"),
    ("kimi-k2", "kimi-k2"),
    ("glm-5", "glm-5"),
    ("llama2-70b", "llama-2-70b"),
    ("llama3.1-405b", "llama-3-405b"),
    ("llama3.1-8b", "llama-3-8b"),
    ("mixtral-8x7b", "mixtral-8x7b"),
)
FITTED = ("deepseek-v3", "llama-3-70b", "qwen3-32b", "gpt-oss-120b")
QUANT = {
    "nvfp4": "nvfp4",
    "fp8": "fp8",
    "fp8_block": "fp8",
    "int4_wo": "w4a16",
    "bfloat16": "bf16",
    "bf16": "bf16",
    "fp4": "nvfp4",
    "int4": "w4a16",
    "": "bf16",
}
SIDES = ("", "prefill_", "decode_")


def shape_name(text: str) -> str | None:
    """The catalogue's name of a model as tables write it."""
    low = text.lower()
    return next((name for part, name in MODELS if part in low), None)


@dataclass(frozen=True)
class Load:
    """One measured row."""

    shape: str
    serving: Serving
    system: str
    engine: str
    disaggregated: bool
    id: str
    layout: tuple[tuple[float, ...], ...]
    """(tp, dp, moe_tp, ep, pp): of the whole, or of prefill and decode."""
    workers: tuple[float, ...]
    """Replicas of each side; 0 where the row does not say."""
    prompt: float
    output: float
    concurrency: float
    ttft_s: float
    tpot_s: float

    @property
    def open(self) -> bool:
        """Whether the row leaves open how attention is cut: latent keys are not cut over many."""
        mla = catalogue.shapes()[self.shape].mla is not None
        return mla and (0.0 in self.workers or self.layout[-1][0] > 8)

    @property
    def profile(self) -> str:
        return f"serve-{SYSTEMS[self.system][0]}-{self.engine}"


def _possible(system: str, precision: str) -> str:
    """Four-bit weights are widened where the chip has no four-bit products."""
    chip = catalogue.chips()[SYSTEMS[system][0]]
    return "w4a16" if precision == "nvfp4" and chip.fp4_tflops is None else precision


def _layout(row: Row, side: str) -> tuple[float, ...]:
    """One side's layout as the table has it, but for one slip of the table.

    Where `moe_tp` and `moe_ep` are equal and their product is `tp`, the table multiplied the
    engine's `--tp n --ep n` (64 on nodes of 8): the world is n.
    """
    tp, pp = number(row, f"{side}tp_size", 1), number(row, f"{side}pp_size", 1)
    dp = max(number(row, f"{side}attention_dp_size", 1), 1)
    ep = max(number(row, f"{side}moe_ep_size", 1), 1)
    if ep > 1 and number(row, f"{side}moe_tp_size", 1) == ep and tp * dp == ep * ep:
        tp, dp = (ep, 1.0) if dp == 1 else (1.0, ep)
    return tp, dp, max(tp * dp / ep, 1), ep, pp


def _attention_apart(layout: tuple[float, ...]) -> tuple[float, ...]:
    """The same chips with attention cut by requests instead of heads."""
    tp, dp, moe_tp, ep, pp = layout
    return 1.0, tp * dp, moe_tp, ep, pp


def load(row: Row) -> Load | None:
    """One row of aic_silicon_sample; none where a figure is missing or the model unknown."""
    name = shape_name(row["model_path"])
    quant = row["gemm_quant_mode"].strip()
    path = row["model_path"].lower()
    weights = QUANT.get(quant)
    if not quant:
        weights = (
            "nvfp4" if "fp4" in path else "fp8" if "fp8" in path or "deepseek" in path else "bf16"
        )
    if name is None or weights is None or row["system"] not in SYSTEMS:
        return None
    experts = QUANT.get(row["moe_quant_mode"].strip() or quant) or weights
    weights, experts = (_possible(row["system"], one) for one in (weights, experts))
    apart_here = row["mode"] == "disagg"
    sides = SIDES[1:] if apart_here else SIDES[:1]
    try:
        return Load(
            name,
            Serving(weights, experts, 1.0 if weights != "bf16" else 2.0),
            row["system"],
            row["backend"],
            apart_here,
            row["id"],
            tuple(_layout(row, side) for side in sides),
            tuple(number(row, f"{side}num_workers", 0 if apart_here else 1) for side in sides),
            number(row, "isl"),
            number(row, "osl"),
            number(row, "silicon_concurrency"),
            number(row, "silicon_ttft_ms") / 1e3,
            number(row, "silicon_tpot_ms") / 1e3,
        )
    except ValueError:
        return None


@dataclass
class Loads:
    """Rows that share model, precision, system, engine and mode: one call answers them."""

    rows: list[Load] = field(default_factory=list)
    _known: dict[Profile, Latency] = field(default_factory=dict)

    def answer(self, profile: Profile) -> Latency:
        """First-token and per-token seconds of every row."""
        if profile not in self._known:
            if len(self._known) > 64:
                self._known.clear()
            self._known[profile] = self._answer(profile)
        return self._known[profile]

    def _answer(self, profile: Profile) -> Latency:
        given = self._under(profile, [row.layout for row in self.rows])
        free = np.array([row.open for row in self.rows])
        if not free.any():
            return given
        other = self._under(
            profile,
            [
                (*row.layout[:-1], _attention_apart(row.layout[-1])) if row.open else row.layout
                for row in self.rows
            ],
        )
        better = free & (other.tpot_s < given.tpot_s)
        return Latency(
            *(
                np.where(better, getattr(other, one.name), getattr(given, one.name))
                for one in fields(Latency)
            )
        )

    def _under(self, profile: Profile, layouts: Sequence[tuple[tuple[float, ...], ...]]) -> Latency:
        first = self.rows[0]
        cluster = _cluster(first.system, profile)
        shape = catalogue.shapes()[first.shape]
        servers = []
        for side in range(len(first.layout)):
            columns = np.array([layout[side] for layout in layouts]).T
            servers.append(Server(shape, first.serving, cluster, Layouts(*columns)))
        prompt, output, users = (
            np.array([getattr(row, name) for row in self.rows])
            for name in ("prompt", "output", "concurrency")
        )
        if not first.disaggregated:
            return together(servers[0], prompt, output, users)
        fillers, decoders = np.array([row.workers for row in self.rows]).T
        return apart(
            servers[0], servers[1], prompt, output, users, fillers, np.maximum(decoders, 1)
        )


def _cluster(system: str, profile: Profile) -> Cluster:
    chip, supernode = SYSTEMS[system]
    parts = catalogue.supernodes()[supernode]
    return Cluster(catalogue.chips()[chip], profile, network(supernode), parts.chips)


def _holds(row: Load) -> bool:
    """Whether the weights fit the layout; where they do not, the row does not say its layout."""
    profile = Profile(name="any", chip=row.system, release="any", source="none")
    for side in row.layout:
        layouts = Layouts(*(np.array([one]) for one in side))
        shape = catalogue.shapes()[row.shape]
        server = Server(shape, row.serving, _cluster(row.system, profile), layouts)
        if not server.capacity_tokens()[0] > row.prompt:
            return False
    return True


def loads(data: Path) -> tuple[list[Loads], int]:
    """All rows of aic_silicon_sample that can be asked, gathered; and how many there are."""
    rows = read(data / "aic_silicon_sample.csv")
    found: dict[tuple[object, ...], Loads] = {}
    for row in rows:
        one = load(row)
        if one is not None and _holds(one):
            key = (one.shape, one.serving, one.system, one.engine, one.disaggregated)
            found.setdefault(key, Loads()).rows.append(one)
    return list(found.values()), len(rows)


def fit_serving(
    data: Path, kernels: Mapping[str, Profile], *, leave_out: bool = True
) -> Fit | None:
    """Profiles of chips and engines on the `FITTED` models' rows.

    Free: launches, host, first tokens and the wave of prompts by engine, experts' share by
    generation of chips; products, memory and waves are the kernel profiles', attention is half.
    """
    groups, _ = loads(data)
    names = sorted({group.rows[0].profile for group in groups})
    if not names:
        return None
    start = {}
    for name in names:
        chip, engine = name.removeprefix("serve-").rsplit("-", 1)
        base = kernels.get(f"kernels-{chip}")
        fields = ("gemm", "gemm_fp8", "gemm_fp4", "memory", "wave")
        taken = {} if base is None else {f: getattr(base, f) for f in fields if f in base.fitted}
        start[name] = Profile(
            name=name,
            chip=chip,
            release=engine,
            quantise_us=0.0,
            attention=0.5,
            fitted=(*taken, "launch_us", "host_us", "burst", "first_us", "grouped"),
            fitted_on=f"aic_silicon_sample: {', '.join(FITTED)}; products by the operator tables",
            source="STARLOOM_DATA ground_truth: ai-dynamo/aiconfigurator @095f58a",
            **taken,
        )

    def own(*parts: str) -> tuple[str, ...]:
        return tuple(name for name in names if any(part in name for part in parts))

    free = []
    for engine in sorted({name.rsplit("-", 1)[1] for name in names}):
        mine = own(f"-{engine}")
        free += [Free("launch_us", mine, 2.5), Free("host_us", mine, 2000.0)]
        free += [Free("burst", mine, 0.1), Free("first_us", mine, 60_000.0)]
    for chips in (("h100", "h200"), ("b200", "b300", "gb200", "gb300")):
        mine = own(*(f"serve-{chip}-" for chip in chips))
        if mine:
            free.append(Free("grouped", mine, 0.5))
    used = [group for group in groups if group.rows[0].shape in FITTED]
    if not used:
        return None

    def predict(profiles: Mapping[str, Profile]) -> Array:
        parts = []
        for group in used:
            answer = group.answer(profiles[group.rows[0].profile])
            parts += [answer.ttft_s, answer.tpot_s]
        return np.concatenate(parts)

    measured = np.concatenate(
        [
            np.array([getattr(row, name) for row in group.rows])
            for group in used
            for name in ("ttft_s", "tpot_s")
        ]
    )
    labels = [group.rows[0].shape for group in used for _ in range(2) for _ in group.rows]
    return fit(start, free, predict, measured, labels if leave_out else (), pull=1.0)


@dataclass(frozen=True)
class Scored:
    """Measured and predicted of one figure, and which rows were fitted."""

    stem: str
    figure: str
    measured: Array
    predicted: Array
    fitted: NDArray[np.bool_]
    rows: int

    @property
    def errors(self) -> Array:
        return self.predicted / self.measured - 1


def silicon(
    data: Path, profile: Callable[[str], Profile], only: Set[str] | None = None
) -> list[Scored]:
    """TTFT and TPOT of every row that can be asked; of those with an id in `only`, where given."""
    groups, rows = loads(data)
    if only is not None:
        kept = [Loads([row for row in group.rows if row.id in only]) for group in groups]
        groups = [group for group in kept if group.rows]
    if not groups:
        return []
    answers = [group.answer(profile(group.rows[0].profile)) for group in groups]
    fitted = np.array([row.shape in FITTED for group in groups for row in group.rows])
    scored = []
    for figure, name in (("ttft", "ttft_s"), ("tpot", "tpot_s")):
        measured = np.array([getattr(row, name) for group in groups for row in group.rows])
        predicted = np.concatenate([getattr(answer, name) for answer in answers])
        scored.append(Scored("aic_silicon_sample", figure, measured, predicted, fitted, rows))
    return scored


def full_load(
    shape: str,
    serving: Serving,
    supernode: str,
    profile: Profile,
    layouts: Layouts,
    prompt: float,
    output: float,
    tpot_most_s: float = np.inf,
    ttft_most_s: float = np.inf,
) -> float:
    """Output tokens/s a chip at the best concurrency within limits; 0 where nothing fits."""
    parts = catalogue.supernodes()[supernode]
    cluster = Cluster(catalogue.chips()[parts.chip], profile, network(supernode), parts.chips)
    best = 0.0
    users = np.unique(np.round(2.0 ** np.arange(0, 14.01, 0.5)))
    for at in range(len(layouts.tp)):
        many = layouts.take(np.full(len(users), at))
        server = Server(catalogue.shapes()[shape], serving, cluster, many)
        room = server.capacity_tokens() / (prompt + output)
        answer = together(
            server, np.full_like(users, prompt), np.full_like(users, output), users * many.dp
        )
        good = (room >= users) & (answer.tpot_s <= tpot_most_s) & (answer.ttft_s <= ttft_most_s)
        if good.any():
            best = max(best, float(answer.tokens_per_s_chip[good].max()))
    return best


GPUS = (
    ("GB300", "gb300-nvl72", "gb300"),
    ("GB200", "gb200-nvl72", "gb200"),
    ("B300", "dgx-b300", "b300-sxm"),
    ("B200", "dgx-b200", "b200-sxm"),
    ("H200", "dgx-h200", "h200-sxm"),
    ("H100", "dgx-h100", "h100-sxm"),
    ("H800", "hgx-h800", "h800-sxm"),
    ("H20", "hgx-h20", "h20-sxm"),
    ("MI300X", "mi300x-8", "mi300x"),
    ("MI325X", "mi300x-8", "mi325x"),
    ("MI355X", "mi355x-8", "mi355x"),
)


def gpu(text: str) -> tuple[str, str] | None:
    """(supernode, chip) of an accelerator as tables write it."""
    return next(((s, c) for part, s, c in GPUS if part in text), None)


def trtllm(data: Path, profile: Callable[[str], Profile]) -> Scored | None:
    """NVIDIA/TensorRT-LLM's overview: output tokens/s a GPU at full load, cut as the row says."""
    rows = read(data / "trtllm_throughput.csv")
    measured, predicted = [], []
    for row in rows:
        name, system = shape_name(row["model"]), gpu(row["gpu"])
        cut = re.fullmatch(r"(DEP|TEP|TP)(\d+)", row["parallel"])
        if name is None or system is None or cut is None:
            continue
        ranks = float(cut[2])
        dep, tep = cut[1] == "DEP", cut[1] == "TEP"
        layouts = Layouts.of(
            tp=1.0 if dep else ranks, dp=ranks if dep else 1.0, ep=ranks if dep or tep else 1.0
        )
        weights = {"FP4": "nvfp4", "FP8": "fp8"}.get(row["precision"], "bf16")
        supernode, chip = system
        rate = full_load(
            name,
            Serving(weights),
            supernode,
            profile(f"serve-{chip}-trtllm"),
            layouts,
            number(row, "isl"),
            number(row, "osl"),
        )
        if rate > 0:
            measured.append(number(row, "output_tokens_per_s_per_gpu"))
            predicted.append(rate)
    if not measured:
        return None
    fitted = np.zeros(len(measured), dtype=bool)
    return Scored(
        "trtllm_throughput",
        "tokens_per_s",
        np.array(measured),
        np.array(predicted),
        fitted,
        len(rows),
    )


LENGTHS = {
    "llama2-70b-99": (294.0, 294.0),
    "llama3.1-405b": (9400.0, 680.0),
    "llama3.1-8b": (778.0, 73.0),
    "mixtral-8x7b": (300.0, 145.0),
    "deepseek-r1": (800.0, 3880.0),
}
"""Mean prompt and output tokens of MLPerf Inference v5.1's data sets: OpenOrca, LongBench and
RULER, CNN/DailyMail, the mixed set of Mixtral, DeepSeek-R1's five sets. From the rules' pages and
their descriptions; of R1's prompts, and of Mixtral, from memory."""
LIMITS = {
    ("llama2-70b-99", "Server"): (2.0, 0.2),
    ("llama2-70b-99", "Interactive"): (0.45, 0.04),
    ("llama3.1-405b", "Server"): (6.0, 0.175),
    ("llama3.1-405b", "Interactive"): (4.5, 0.08),
    ("llama3.1-8b", "Server"): (2.0, 0.1),
    ("mixtral-8x7b", "Server"): (2.0, 0.2),
    ("deepseek-r1", "Server"): (2.0, 0.08),
}
"""TTFT and TPOT limits in seconds, of the benchmark's rules at the 99th percentile."""


def mlperf_inference(data: Path, profile: Callable[[str], Profile]) -> Scored | None:
    """mlcommons/inference_results_v5.1: tokens/s an accelerator under the planner's best cut."""
    rows = read(data / "mlperf_inference_v5_1_llm.csv")
    measured, predicted = [], []
    known: dict[tuple[str, ...], float] = {}
    for row in rows:
        name, system = shape_name(row["model"]), gpu(row["accelerator"])
        key = (row["model"], row["scenario"])
        lengths = LENGTHS.get(row["model"])
        weights = {"fp4": "nvfp4", "mxfp4": "nvfp4", "fp8": "fp8"}.get(row["weight_dtype"])
        mixed = "," in row["accelerator"]
        if name is None or system is None or lengths is None or weights is None or mixed:
            continue
        supernode, chip = system
        ask = (name, weights, chip, *key)
        if ask not in known:
            ranks = np.array([1.0, 2.0, 4.0, 8.0])
            moe = catalogue.shapes()[name].moe is not None
            layouts = Layouts.of(tp=ranks)
            if moe:
                layouts = Layouts.of(
                    tp=np.r_[ranks, 1.0 + 0 * ranks],
                    dp=np.r_[1 + 0 * ranks, ranks],
                    ep=np.r_[1 + 0 * ranks, ranks],
                )
            ttft, tpot = LIMITS.get(key, (np.inf, np.inf))
            known[ask] = full_load(
                name,
                Serving(weights),
                supernode,
                profile(f"serve-{chip}-trtllm"),
                layouts,
                *lengths,
                tpot,
                ttft,
            )
        if known[ask] > 0:
            measured.append(number(row, "result_per_accel"))
            predicted.append(known[ask])
    if not measured:
        return None
    fitted = np.zeros(len(measured), dtype=bool)
    return Scored(
        "mlperf_inference_v5_1_llm",
        "tokens_per_s",
        np.array(measured),
        np.array(predicted),
        fitted,
        len(rows),
    )


def infersim(data: Path, profile: Callable[[str], Profile]) -> Scored | None:
    """InferSim's six rows: prefill at 4,096 tokens, decode at the batch that fits."""
    rows = read(data / "infersim_validation.csv")
    measured, predicted = [], []
    for row in rows:
        name, system = shape_name(row["model"]), gpu(row["gpu"])
        if name is None or system is None:
            continue
        supernode, chip = system
        deep = name == "deepseek-v3"
        ranks = (32.0 if row["phase"] == "prefill" else 128.0) if deep else 1.0
        weights = "bf16" if "BF16" in row["model"] else "fp8"
        parts = catalogue.supernodes()[supernode]
        cluster = Cluster(
            catalogue.chips()[chip],
            profile(f"serve-{chip}-sglang"),
            network(supernode),
            parts.chips,
        )
        layouts = Layouts.of(tp=1, dp=ranks, ep=ranks)
        server = Server(catalogue.shapes()[name], Serving(weights, kv_bytes=2.0), cluster, layouts)
        if row["phase"] == "prefill":
            prompt = np.array([4096.0])
            rate = 4 * prompt / server.prefill(prompt, 4.0).total_s
        else:
            context = np.array([4096.0 + 1024.0])
            batch = np.minimum(np.floor(server.capacity_tokens() / context), 128.0)
            rate = batch / server.decode(batch, context).total_s
        measured.append(number(row, "actual_tgs"))
        predicted.append(float(rate[0]))
    if not measured:
        return None
    fitted = np.zeros(len(measured), dtype=bool)
    return Scored(
        "infersim_validation",
        "tokens_per_s",
        np.array(measured),
        np.array(predicted),
        fitted,
        len(rows),
    )


THROUGHPUT: Sequence[Callable[[Path, Callable[[str], Profile]], Scored | None]] = (
    trtllm,
    mlperf_inference,
    infersim,
)
