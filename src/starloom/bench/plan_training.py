"""The measured training tables, one function each: rows of a CSV into cases.

A function returns the cases and the number of rows that it looked at; rows whose `verified` is `no`
are not counted, since nobody saw their figures.
"""

from collections.abc import Callable
from pathlib import Path

from starloom.bench.plan_cases import Case, Row, cuts_of, number, read, with_layers
from starloom.plan.base import Job
from starloom.site import ModelShape, catalogue

Found = tuple[list[Case], int]
MICROBATCHES = (1, 2, 4, 8, 16)
RECOMPUTES = (0.0, 1.0, 1.25, 1.5, 1.75, 2.0)
"""None, selective, and a growing share of the layers in full: the planner takes the fastest that
fits."""
GPT3_JOB = Job(2048, flash=False, dropout=True, sequence_parallel=False)


def _rows(data: Path, stem: str) -> list[dict[str, str]]:
    return [row for row in read(data / f"{stem}.csv") if row.get("verified") != "no"]


def gpt(
    layers: int, hidden: int, heads: int, vocab: int = 51200, positions: int = 2048
) -> ModelShape:
    """A model of the GPT-3 kind."""
    like = catalogue.shapes()["gpt-3-175b"]
    return like.model_copy(
        update={
            "layers": layers,
            "hidden": hidden,
            "heads": heads,
            "kv_heads": heads,
            "head_dim": hidden // heads,
            "intermediate": 4 * hidden,
            "vocab": vocab,
            "positions": positions,
        }
    )


def gpt_flops(shape: ModelShape, batch: float, seq: float) -> float:
    """96 B s l h^2 (1 + s/6h + V/16lh): arXiv 2104.04473 eq. 3, full recomputation included."""
    h, layers = shape.hidden, shape.layers
    inner = 1 + seq / (6 * h) + shape.vocab / (16 * layers * h)
    return 96.0 * batch * seq * layers * h**2 * inner


def chunks(layers: int, pp: int) -> list[float]:
    """Interleavings that divide a stage's layers; 1 alone without a pipeline."""
    if pp == 1 or layers % pp:
        return [1.0]
    return [float(v) for v in range(1, layers // pp + 1) if layers // pp % v == 0]


def seqsel(data: Path) -> Found:
    """ArXiv 2205.05198 Table 5; the A100's parameters of 2021-22 are fitted to these."""
    cases, rows = [], _rows(data, "megatron_seqsel_2205_05198")
    for row in rows:
        full = row["mode"].startswith("full")
        shape = gpt(int(row["layers"]), int(row["hidden"]), int(row["heads"]))
        job = Job(int(row["seq_len"]), flash=False, dropout=True, sequence_parallel=not full)
        cut = cuts_of(
            tp=number(row, "tp"),
            pp=number(row, "pp"),
            dp=number(row, "dp"),
            vp=number(row, "interleave"),
            gbs=number(row, "batch"),
            mbs=number(row, "microbatch"),
            zero=0,
            recompute="full" if full else "selective",
        )
        cases.append(
            Case(
                "megatron_seqsel_2205_05198",
                f"{row['model']} {row['mode']}",
                row["model"],
                "train-a100-megatron-2021",
                "dgx-a100",
                shape,
                job,
                cut,
                number(row, "measured_iter_s"),
                fitted=True,
            )
        )
    return cases, len(rows)


def sc21(data: Path) -> Found:
    """ArXiv 2104.04473 Table 1: microbatch and interleaving are the planner's own."""
    cases, rows = [], _rows(data, "megatron_sc21_table1")
    for row in rows:
        shape = gpt(int(row["layers"]), int(row["hidden"]), int(row["heads"]), int(row["vocab"]))
        tp, pp, gpus, batch = (int(row[c]) for c in ("tp", "pp", "gpus", "batch"))
        per_pipeline = batch // (gpus // (tp * pp))
        cut = cuts_of(
            tp=tp,
            pp=pp,
            dp=gpus / (tp * pp),
            vp=chunks(shape.layers, pp),
            gbs=batch,
            mbs=[float(b) for b in MICROBATCHES if per_pipeline % b == 0],
            zero=0,
            recompute="full",
        )
        seconds = gpt_flops(shape, batch, number(row, "seq_len"))
        seconds /= 1e12 * number(row, "achieved_tflops_per_gpu") * gpus
        cases.append(
            Case(
                "megatron_sc21_table1",
                f"{row['params_b']}B",
                row["params_b"],
                "train-a100-megatron-2021",
                "dgx-a100",
                shape,
                GPT3_JOB,
                _divisible(cut),
                seconds,
            )
        )
    return cases, len(rows)


def _divisible(cuts: tuple[tuple[float, ...], ...]) -> tuple[tuple[float, ...], ...]:
    """Interleaving needs microbatches in multiples of the stages (arXiv 2104.04473, 2.2.2)."""
    kept = []
    for cut in cuts:
        _, pp, vp, dp, _, _, mbs, gbs, *_ = cut
        if vp == 1 or gbs / (dp * mbs) % pp == 0:
            kept.append(cut)
    return tuple(kept)


def sc21_zero(data: Path) -> Found:
    """ArXiv 2104.04473 Table 2: PTD-P, and ZeRO-3 without model parallelism."""
    shapes = {"175": gpt(96, 12288, 96), "530": gpt(105, 20480, 128)}
    cases, rows = [], _rows(data, "megatron_sc21_table2_ptd_vs_zero3")
    for row in rows:
        shape = shapes.get(row["params_b"])
        if shape is None:
            continue
        tp, pp, gpus, batch = (int(row[c]) for c in ("tp", "pp", "gpus", "global_batch"))
        zero3 = row["scheme"] == "ZeRO-3"
        dp = gpus / (tp * pp)
        cut = cuts_of(
            tp=tp,
            pp=pp,
            dp=dp,
            vp=chunks(shape.layers, pp),
            gbs=batch,
            mbs=[float(b) for b in MICROBATCHES if batch // dp % b == 0],
            zero=3 if zero3 else 0,
            recompute="full",
        )
        seconds = gpt_flops(shape, batch, 2048)
        seconds /= 1e12 * number(row, "achieved_tflops_per_gpu") * gpus
        cases.append(
            Case(
                "megatron_sc21_table2_ptd_vs_zero3",
                f"{row['scheme']} {row['params_b']}B {gpus}",
                row["params_b"],
                "train-a100-megatron-2021",
                "dgx-a100",
                shape,
                GPT3_JOB,
                _divisible(cut),
                seconds,
            )
        )
    return cases, len(rows)


def mtnlg(data: Path) -> Found:
    """ArXiv 2201.11990: DeepSpeed's pipeline has no interleaving; microbatch 1."""
    cases, rows = [], _rows(data, "mtnlg_530b")
    for row in rows:
        tp, pp, gpus = (int(row[c]) for c in ("tp", "pp", "gpus"))
        cut = cuts_of(
            tp=tp,
            pp=pp,
            dp=gpus / (tp * pp),
            gbs=number(row, "global_batch"),
            zero=1,
            recompute="full",
        )
        cases.append(
            Case(
                "mtnlg_530b",
                f"{gpus} GPUs",
                "mt-nlg",
                "train-a100-megatron-deepspeed-2021",
                "dgx-a100",
                catalogue.shapes()["mt-nlg-530b"],
                GPT3_JOB,
                cut,
                number(row, "measured_iter_s"),
            )
        )
    return cases, len(rows)


def llama3(data: Path) -> Found:
    """ArXiv 2407.21783 Table 4. FSDP shards states and gradients; chunks of one or two layers."""
    cases, rows = [], _rows(data, "llama3_405b_table4")
    shape = catalogue.shapes()["llama-3-405b"]
    for row in rows:
        tp, cp, pp, dp, gpus = (int(row[c]) for c in ("tp", "cp", "pp", "dp", "gpus"))
        seq, batch = int(row["seq_len"]), number(row, "batch_per_dp") * dp
        cut = cuts_of(
            tp=tp, pp=pp, dp=dp, cp=cp, vp=[4.0, 8.0], gbs=batch, zero=2, recompute=RECOMPUTES
        )
        # The paper's model FLOPs are those of Kaplan et al. with causal attention.
        flops = 6.0 * (shape.weights - shape.vocab * shape.hidden)
        flops += 12.0 * shape.layers * shape.heads * shape.head_dim * seq / 2
        seconds = flops * batch * seq / (1e12 * number(row, "tflops_per_gpu") * gpus)
        cases.append(
            Case(
                "llama3_405b_table4",
                f"{gpus} GPUs seq {seq}",
                "llama-3-405b",
                "train-h100-meta-2024",
                "dgx-h100",
                shape,
                Job(seq),
                cut,
                seconds,
            )
        )
    return cases, len(rows)


def megascale(data: Path) -> Found:
    """MegaScale (NSDI '24) Table 2: parallel block, overlapped exchanges, 6 chunks a stage."""
    cases, rows = [], _rows(data, "megascale_175b")
    for row in rows:
        a100 = row["gpu"].startswith("A100")
        ours = row["system"] == "MegaScale"
        shape = gpt(96, 12288, 96)
        if ours:
            shape = shape.model_copy(update={"parallel_block": True})
        tp, pp = int(row["tp"]), int(row["pp"])
        cut = cuts_of(
            tp=tp,
            pp=pp,
            dp=number(row, "gpus") / (tp * pp),
            vp=6.0 if ours else chunks(96, pp),
            gbs=number(row, "batch"),
            mbs=1.0 if a100 else [1.0, 2.0, 4.0],
            recompute=RECOMPUTES,
        )
        profile = "train-a100-megascale" if ours else "train-a100-megatron-2021"
        job = Job(int(row["seq_len"]), precision="bf16" if a100 else "fp8")
        cases.append(
            Case(
                "megascale_175b",
                f"{row['system']} {row['gpus']}",
                "gpt-3-175b",
                profile if a100 else "train-h100-nemo-2411",
                "dgx-a100" if a100 else "dgx-h100",
                shape,
                job,
                cut,
                number(row, "iter_s"),
            )
        )
    return cases, len(rows)


def nemotron(data: Path) -> Found:
    """Nemotron-4 340B technical report, Table 2."""
    cases, rows = [], _rows(data, "nemotron4_340b_techreport")
    for row in rows:
        cut = cuts_of(
            tp=number(row, "tp"),
            pp=number(row, "pp"),
            dp=number(row, "dp"),
            vp=chunks(96, int(row["pp"])),
            gbs=number(row, "batch"),
            recompute=RECOMPUTES,
        )
        cases.append(
            Case(
                "nemotron4_340b_techreport",
                f"{row['gpus']} GPUs",
                "nemotron-4-340b",
                "train-h100-nemo-2411",
                "dgx-h100",
                catalogue.shapes()["nemotron-4-340b"],
                Job(4096),
                cut,
                number(row, "iter_s"),
            )
        )
    return cases, len(rows)


def palm(data: Path) -> Found:
    """ArXiv 2204.02311 section 4.1: 12-way model and 256-way FSDP in each of two pods, no pipeline.

    The other rows of the paper's Table 3 name neither batch nor cut.
    """
    cases, rows = [], _rows(data, "palm_mfu")
    for row in rows:
        if not row["tokens_per_s"]:
            continue
        batch, seq = number(row, "batch"), number(row, "seq_len")
        cut = cuts_of(
            tp=12,
            dp=number(row, "chips") / 12,
            gbs=batch,
            mbs=[1.0, 2.0, 4.0],
            zero=3,
            recompute=RECOMPUTES,
        )
        cases.append(
            Case(
                "palm_mfu",
                row["model"],
                "palm-540b",
                "train-tpu-v4",
                "tpu-v4-pod",
                catalogue.shapes()["palm-540b"],
                Job(int(seq)),
                cut,
                batch * seq / number(row, "tokens_per_s"),
            )
        )
    return cases, len(rows)


def deepseek(data: Path) -> Found:
    """DeepSeek-V3's whole training as one step time: 14.8 T tokens in 2.788 M H800-hours.

    The hours hold context extension and fine-tuning too (0.124 M by the report), so that a perfect
    planner is 4.4 % too fast here. The other rows are settings and totals, not measurements.
    """
    rows = {row["item"]: row for row in _rows(data, "deepseek_v3_training")}
    wanted = ("training tokens", "full training H800 GPU hours")
    if not all(item in rows for item in wanted):
        return [], 0
    tokens = 1e12 * number(rows["training tokens"], "value")
    hours = 1e6 * number(rows["full training H800 GPU hours"], "value")
    batch, seq, gpus = 15360.0, 4096, 2048.0
    case = Case(
        "deepseek_v3_training",
        "2.788 M H800-hours",
        "deepseek-v3",
        "train-h800-deepseek",
        "hgx-h800",
        catalogue.shapes()["deepseek-v3"],
        Job(seq, precision="fp8"),
        cuts_of(pp=16, dp=gpus / 16, ep=64, gbs=batch, schedule="dualpipe", recompute=RECOMPUTES),
        hours * 3600 / gpus / (tokens / (batch * seq)),
    )
    return [case], 1


SIMUMAX_MODELS = {
    "llama3_70b": "llama-3-70b",
    "llama3_405b": "llama-3-405b",
    "deepseekv2": "deepseek-v2",
    "deepseekv3": "deepseek-v3",
}


def simumax(data: Path) -> Found:
    """MooreThreads/SimuMax docs/b200: cut models on one node; time and memory; fitted."""
    cases, rows = [], _rows(data, "simumax_b200_v1_2")
    for row in rows:
        name = SIMUMAX_MODELS.get(row["model"])
        if name is None or row["precision"] not in ("bf16", "fp8"):
            continue
        tp, pp, dp, cp, ep = (number(row, c) for c in ("tp", "pp", "dp", "cp", "ep"))
        mbs = number(row, "mbs")
        cut = cuts_of(
            tp=tp,
            pp=pp,
            dp=dp,
            cp=cp,
            ep=ep,
            mbs=mbs,
            gbs=dp * mbs * number(row, "micro_batch_count"),
        )
        cases.append(
            Case(
                "simumax_b200_v1_2",
                row["case"],
                row["model"],
                "train-b200-megatron-2025",
                "dgx-b200",
                with_layers(catalogue.shapes()[name], int(row["layers"])),
                Job(int(row["seq_len"]), "fp8" if row["precision"] == "fp8" else "bf16"),
                cut,
                number(row, "real_iter_ms") / 1e3,
                fitted=True,
                allocated_gib=number(row, "real_alloc_GiB"),
            )
        )
    return cases, len(rows)


DGXC_MODELS = {
    "Nemotron4-340B": "nemotron-4-340b",
    "GPT3-175B": "gpt-3-175b",
    "Llama3.1-405B": "llama-3-405b",
    "Grok1-314B": "grok-1",
    "DeepSeek-V3": "deepseek-v3",
    "Qwen3-235B-A22B": "qwen3-235b-a22b",
}
DGXC_FITTED = ("Nemotron4-340B", "GPT3-175B")


def dgxc(data: Path) -> Found:
    """NVIDIA/dgxc-benchmarking READMEs; the H100 is fitted to GPT-3 and Nemotron 340B."""
    cases, rows = [], _rows(data, "nvidia_dgxc_scaling")
    for row in rows:
        name = DGXC_MODELS.get(row["model"])
        if name is None:
            continue
        tp, pp, cp, ep, gpus = (number(row, c) for c in ("tp", "pp", "cp", "ep", "gpus"))
        gb200 = row["gpu"].startswith("GB200")
        cut = cuts_of(
            tp=tp,
            pp=pp,
            cp=cp,
            ep=ep,
            dp=gpus / (tp * pp * cp),
            vp=number(row, "vp", 1),
            mbs=number(row, "mbs"),
            gbs=number(row, "gbs"),
            recompute=RECOMPUTES,
        )
        cases.append(
            Case(
                "nvidia_dgxc_scaling",
                f"{row['model']} {row['precision']} {row['gpu']} {row['gpus']}",
                row["model"],
                "train-gb200-bridge-26.02" if gb200 else "train-h100-nemo-2411",
                "gb200-nvl72" if gb200 else "dgx-h100",
                with_layers(catalogue.shapes()[name], int(row["layers"])),
                Job(int(row["seq_len"]), "fp8" if row["precision"] == "FP8" else "bf16"),
                cut,
                number(row, "step_s"),
                fitted=row["model"] in DGXC_FITTED,
            )
        )
    return cases, len(rows)


MPT = {
    "125m": (768, 12, 12),
    "350m": (1024, 24, 16),
    "760m": (1536, 24, 12),
    "1b": (2048, 24, 16),
    "3b": (2560, 32, 20),
    "7b": (4096, 32, 32),
    "13b": (5120, 40, 40),
    "30b": (7168, 48, 56),
    "70b": (8192, 80, 64),
}
"""Width, layers, heads: mosaicml/llm-foundry scripts/train/yamls/pretrain."""


def mosaic(data: Path) -> Found:
    """mosaicml/llm-foundry benchmarks; fitted to the runs on 8 GPUs at 2,048 and 16,384."""
    cases, rows = [], _rows(data, "mosaicml_mpt_fsdp")
    for row in rows:
        size = row["model"].removeprefix("MPT-")
        if size not in MPT:
            continue
        hidden, layers, heads = MPT[size]
        seq, gpus = int(row["seq_len"]), number(row, "gpus")
        shape = gpt(layers, hidden, heads, 50368, seq).model_copy(update={"biases": False})
        fp8 = "fp8" in row["precision"].lower()
        h100 = row["gpu"].startswith("h100")
        cut = cuts_of(
            dp=gpus,
            mbs=number(row, "mbs"),
            gbs=number(row, "gbs"),
            zero=3 if row["sharding"] == "FULL_SHARD" else 2,
            recompute="full" if row["act_ckpt"] == "True" else "none",
        )
        nodes = {"a100_80gb": "dgx-a100", "a100_40gb": "dgx-a100-40gb"}
        cases.append(
            Case(
                "mosaicml_mpt_fsdp",
                f"{row['model']} {row['gpu']} {row['gpus']} seq {seq}",
                row["model"],
                "train-h100-fsdp-2024" if h100 else "train-a100-fsdp-2024",
                "dgx-h100" if h100 else nodes.get(row["gpu"], "dgx-a100"),
                shape,
                Job(seq, "fp8" if fp8 else "bf16"),
                cut,
                number(row, "gbs") * seq / (number(row, "tokens_per_s_per_gpu") * gpus),
                fitted=gpus == 8 and seq in (2048, 16384),
            )
        )
    return cases, len(rows)


BRIDGE_MODELS = {
    "LLAMA3_8B": "llama-3-8b",
    "LLAMA3_70B": "llama-3-70b",
    "LLAMA3.1_405B": "llama-3-405b",
    "DeepSeekV3": "deepseek-v3",
    "DeepSeekV3 (w/ MTP)": "deepseek-v3",
    "DeepSeekV3 (w/o MTP)": "deepseek-v3",
    "DeepSeekV3 (tokendrop)": "deepseek-v3",
    "GPT OSS 120B": "gpt-oss-120b",
    "Qwen3_30B_a3B": "qwen3-30b-a3b",
    "Qwen3_30B_a3B (tokendrop)": "qwen3-30b-a3b",
    "Qwen3_235B_a22B": "qwen3-235b-a22b",
    "Qwen3_235B_a22B (tokendrop)": "qwen3-235b-a22b",
    "Kimi_K2": "kimi-k2",
}
BRIDGE_FITTED = ("llama-3-8b", "llama-3-70b", "qwen3-30b-a3b", "gpt-oss-120b", "deepseek-v3")
BRIDGE_SYSTEMS = {
    "DGX-H100": ("h100", "dgx-h100"),
    "DGX-B200": ("b200", "dgx-b200"),
    "DGX-B300": ("b300", "dgx-b300"),
    "DGX-GB200": ("gb200", "gb200-nvl72"),
    "DGX-GB300": ("gb300", "gb300-nvl72"),
}
BRIDGE_PRECISIONS = {
    "BF16": "bf16",
    "FP8": "fp8",
    "FP8-CS": "fp8",
    "": "fp8",
    "MXFP8": "mxfp8",
    "FP8-MX": "mxfp8",
    "NVFP4": "nvfp4",
}


def bridge(data: Path) -> Found:
    """NVIDIA-NeMo/Megatron-Bridge performance summaries, each row under its release's profile.

    Hybrids with state-space layers and DeepSeek-V4's attention are models that we do not have.
    """
    cases, rows = [], _rows(data, "megatron_bridge_training")
    for row in rows:
        case = bridge_case(row)
        if case is not None:
            cases.append(case)
    return cases, len(rows)


def bridge_case(row: Row) -> Case | None:
    """One row; none where it cannot be expressed."""
    name = BRIDGE_MODELS.get(row["model"])
    system = BRIDGE_SYSTEMS.get(row["system"])
    precision = BRIDGE_PRECISIONS.get(row["precision"])
    if name is None or system is None or precision is None:
        return None
    chip, supernode = system
    shape = catalogue.shapes()[name]
    if "w/o MTP" in row["model"]:
        shape = shape.model_copy(update={"mtp_layers": 0})
    tp, pp, cp = (number(row, c, 1) for c in ("tp", "pp", "cp"))
    gpus, seq, gbs = number(row, "gpus"), int(row["seq_len"]), number(row, "gbs")
    cut = cuts_of(
        tp=tp,
        pp=pp,
        cp=cp,
        ep=number(row, "ep", 1),
        dp=gpus / (tp * pp * cp),
        vp=number(row, "vp", 1),
        mbs=number(row, "mbs"),
        gbs=gbs,
        zero=3 if number(row, "fsdp", 0) > 0 else 1,
        recompute=RECOMPUTES,
    )
    return Case(
        "megatron_bridge_training",
        f"{row['release']} {row['phase']} {row['model']} {row['system']} {row['precision']}",
        name,
        f"train-{chip}-bridge-{row['release']}",
        supernode,
        shape,
        Job(seq, precision, frozen=row["phase"] == "LoRA"),  # type: ignore[arg-type]
        cut,
        gbs * seq / (number(row, "tokens_per_s_per_gpu") * gpus),
        fitted=name in BRIDGE_FITTED and row["phase"] == "Pre-Training",
        release=row["release"],
    )


MLPERF_SYSTEMS = (
    ("GB200", "gb200-nvl72", "train-gb200-bridge-25.09"),
    ("B200", "dgx-b200", "train-b200-bridge-25.09"),
    ("H200", "dgx-h200", "train-h200-mlperf-2025"),
    ("H100", "dgx-h100", "train-h100-mlperf-2025"),
    ("MI300X", "mi300x-8", "train-mi300x-mlperf-2025"),
    ("MI325X", "mi300x-8", "train-mi300x-mlperf-2025"),
)


def mlperf(data: Path) -> Found:
    """mlcommons/training_results_v5.0, Llama 3.1 405B and Llama 2 70B LoRA; both in FP8.

    Rows without a logged throughput cannot be compared; rows without a configuration get the
    planner's own tensor and context parallelism.
    """
    cases, rows = [], _rows(data, "mlperf_training_v5_0_llm")
    models = {"llama31_405b": "llama-3-405b", "llama2_70b_lora": "llama-2-70b"}
    for row in rows:
        name = models.get(row["benchmark"])
        system = next((s for s in MLPERF_SYSTEMS if s[0] in row["accelerator"]), None)
        if name is None or system is None or not row["tokens_per_s_per_accel"]:
            continue
        gpus, gbs = number(row, "total_accelerators"), number(row, "global_batch_size")
        seq = number(row, "seq_len", 8192)
        pp = number(row, "pp", 1)
        open_tp = [1.0, 2.0, 4.0, 8.0] if not row["tp"] else [number(row, "tp")]
        open_cp = [1.0, 2.0, 4.0, 8.0] if not row["cp"] else [number(row, "cp")]
        cut = tuple(
            one
            for tp in open_tp
            for cp in open_cp
            if gpus % (tp * cp * pp) == 0 and gbs * tp * cp * pp >= gpus
            for one in cuts_of(
                tp=tp,
                pp=pp,
                cp=cp,
                dp=gpus / (tp * pp * cp),
                vp=number(row, "vp", 1),
                mbs=number(row, "mbs", 1),
                gbs=gbs,
                recompute=RECOMPUTES,
            )
        )
        if not cut:
            continue
        lora = name == "llama-2-70b"
        cases.append(
            Case(
                "mlperf_training_v5_0_llm",
                f"{row['benchmark']} {row['accelerator']} {row['total_accelerators']}",
                name,
                system[2],
                system[1],
                catalogue.shapes()[name],
                Job(int(seq), "fp8", frozen=lora),
                cut,
                gbs * seq / (number(row, "tokens_per_s_per_accel") * gpus),
            )
        )
    return cases, len(rows)


TABLES: dict[str, Callable[[Path], Found]] = {
    "megatron_seqsel_2205_05198": seqsel,
    "megatron_sc21_table1": sc21,
    "megatron_sc21_table2_ptd_vs_zero3": sc21_zero,
    "mtnlg_530b": mtnlg,
    "llama3_405b_table4": llama3,
    "palm_mfu": palm,
    "deepseek_v3_training": deepseek,
    "megascale_175b": megascale,
    "nemotron4_340b_techreport": nemotron,
    "megatron_bridge_training": bridge,
    "nvidia_dgxc_scaling": dgxc,
    "mlperf_training_v5_0_llm": mlperf,
    "mosaicml_mpt_fsdp": mosaic,
    "simumax_b200_v1_2": simumax,
}
