"""A chosen strategy as the flags that start it: Megatron-LM, vLLM, SGLang.

Flags as the projects' own documents name them (NVIDIA/Megatron-LM, megatron/training/arguments.py;
vllm-project/vllm, `vllm serve --help`; sgl-project/sglang, server_args.py). What is not ours to
know (data, tokenizer, learning rate, addresses) is left to the user, and named in a comment.
"""

from starloom.plan.base import Cuts, Job
from starloom.plan.deploy import Deployment
from starloom.plan.errors import BadPlan
from starloom.site import ModelShape

FP8 = {"fp8": "tensorwise", "mxfp8": "mxfp8"}
QUANTISED = ("fp8", "mxfp8", "nvfp4", "int8", "w4a16")


def megatron(shape: ModelShape, job: Job, cuts: Cuts, at: int = 0) -> str:
    """The command of one node; raises `BadPlan` for a schedule that Megatron-LM does not have."""
    row = cuts.row(at)
    if row["schedule"] != "1f1b":
        raise BadPlan(f"Megatron-LM has no schedule {row['schedule']!r}: take the best 1f1b cut")
    tp, pp, vp, cp, ep = (int(row[name]) for name in ("tp", "pp", "vp", "cp", "ep"))
    flags = [
        f"--tensor-model-parallel-size {tp}",
        f"--pipeline-model-parallel-size {pp}",
        f"--context-parallel-size {cp}",
        f"--micro-batch-size {row['mbs']}",
        f"--global-batch-size {row['gbs']}",
        f"--seq-length {job.seq_tokens}",
        f"--max-position-embeddings {job.seq_tokens}",
        f"--num-layers {shape.layers}",
        f"--hidden-size {shape.hidden}",
        f"--ffn-hidden-size {shape.intermediate}",
        f"--num-attention-heads {shape.heads}",
        "--bf16",
    ]
    if tp > 1:
        flags.append("--sequence-parallel")
    if vp > 1:
        flags.append(f"--num-virtual-stages-per-pipeline-rank {vp}")
    if shape.mla is not None:
        flags.append("--multi-latent-attention")
    elif shape.kv_heads != shape.heads:
        flags += ["--group-query-attention", f"--num-query-groups {shape.kv_heads}"]
    if shape.gated:
        flags.append("--swiglu")
    if not shape.tied_embeddings:
        flags.append("--untie-embeddings-and-output-weights")
    if shape.moe is not None:
        flags += [
            f"--expert-model-parallel-size {ep}",
            "--expert-tensor-parallel-size 1",
            f"--num-experts {shape.moe.experts}",
            f"--moe-router-topk {shape.moe.active}",
            f"--moe-ffn-hidden-size {shape.moe.intermediate}",
            "--moe-grouped-gemm",
            "--moe-token-dispatcher-type alltoall",
        ]
    flags += _sharding(int(row["zero"])) + _recomputation(cuts, at, shape.layers, pp * vp)
    if job.precision in FP8:
        flags += ["--fp8-format hybrid", f"--fp8-recipe {FP8[job.precision]}"]
    elif job.precision != "bf16":
        raise BadPlan(f"no flag of Megatron-LM is known to us for {job.precision}: plan in fp8")
    head = "# Beside: --data-path, --tokenizer-model, --lr, torchrun's --nnodes, --rdzv-endpoint."
    body = " \\\n  ".join(["torchrun --nproc-per-node $GPUS_PER_NODE pretrain_gpt.py", *flags])
    return f"{head}\n{body}\n"


def _sharding(zero: int) -> list[str]:
    """ZeRO-1 is the distributed optimiser; 2 and 3 are Megatron-FSDP's."""
    if zero == 0:
        return []
    flags = ["--use-distributed-optimizer", "--overlap-grad-reduce", "--overlap-param-gather"]
    kinds = {2: "optim_grads", 3: "optim_grads_params"}
    if zero in kinds:
        flags += ["--use-megatron-fsdp", f"--data-parallel-sharding-strategy {kinds[zero]}"]
    return flags


def _recomputation(cuts: Cuts, at: int, layers: int, chunks: int) -> list[str]:
    again = float(cuts.recompute[at])
    if again == 0:
        return []
    if again <= 1:
        return [
            "--recompute-granularity selective",
            "--recompute-modules layernorm moe_act mla_up_proj",
        ]
    whole = max(round((again - 1) * layers / chunks), 1)
    return [
        "--recompute-granularity full",
        "--recompute-method block",
        f"--recompute-num-layers {whole}",
    ]


def vllm(model: str, one: Deployment, precision: str, context_tokens: int) -> str:
    """`vllm serve` of one replica; a pair of them, with a connector, where prefill is apart."""
    flags = [
        f"--tensor-parallel-size {one.tp}",
        f"--max-num-seqs {-(-one.users // max(one.dp * one.decode_replicas, 1))}",
        f"--max-model-len {context_tokens}",
    ]
    if one.dp > 1:
        flags.append(f"--data-parallel-size {one.dp}")
    if one.ep > 1:
        flags.append("--enable-expert-parallel")
    if precision in QUANTISED:
        flags.append("--kv-cache-dtype fp8")
    command = " \\\n  ".join([f"vllm serve {model}", *flags])
    if one.mode == "together":
        return f"{command}\n"
    halves = []
    roles = (("kv_producer", one.prefill_replicas), ("kv_consumer", one.decode_replicas))
    for role, count in roles:
        config = f'{{"kv_connector":"NixlConnector","kv_role":"{role}"}}'
        halves.append(f"# {count} of these\n{command} \\\n  --kv-transfer-config '{config}'\n")
    return "\n".join(halves)


def sglang(model: str, one: Deployment, precision: str, context_tokens: int) -> str:
    """`sglang.launch_server` of one replica; its `tp` counts all ranks, DP's among them."""
    flags = [
        f"--tp-size {one.tp * one.dp}",
        f"--max-running-requests {-(-one.users // max(one.decode_replicas, 1))}",
        f"--context-length {context_tokens}",
    ]
    if one.dp > 1:
        flags += [f"--dp-size {one.dp}", "--enable-dp-attention"]
    if one.ep > 1:
        flags.append(f"--ep-size {one.ep}")
    if precision in QUANTISED:
        flags.append("--kv-cache-dtype fp8_e4m3")
    command = " \\\n  ".join([f"python -m sglang.launch_server --model-path {model}", *flags])
    if one.mode == "together":
        return f"{command}\n"
    roles = (("prefill", one.prefill_replicas), ("decode", one.decode_replicas))
    return "\n".join(
        f"# {count} of these\n{command} \\\n  --disaggregation-mode {role}\n"
        for role, count in roles
    )
