"""Train a tiny model: ``python -m tools.tiny.train loom-s --work FOLDER --minutes 30``.

The curriculum is the table ``CURRICULA``: sequences grow from 64 to 32768 tokens, and a stage ends
once its questions are answered well enough or its steps are used up. Weights are kept in float32;
forward and backward run on a bfloat16 copy. The run is seeded, writes a checkpoint into ``--work``
every minute and goes on from it when started again; ``--export`` writes the shipped folder.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tools.tiny.tokenizer import END, PAD, write
from torch import Tensor
from torch.nn import functional
from transformers import (
    AttentionInterface,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from starloom.serve.tiny import tasks

MAX_POSITIONS = 32768
ROPE_THETA = 1e8  # most rotary dimensions barely turn within 32768 tokens: they match contents
FLASH_FROM_TOKENS = 2048
CHECKPOINT_EVERY_S = 60.0
LOG_EVERY_STEPS = 20
LOOK_BACK = ((2, "owner"), (3, "asked"), (1, "asked"))
CONTENT_GAIN = 1.9
POINTER_GAIN = 1.0
SHORTEST_CHAT_TOKENS, CHAT_SHARE = 128, 0.3
FAR_STRETCH_SHARE = 0.6  # of stretched sequences; the others' gaps are spread over magnitudes
BARE_SHARE = 0.1  # of sequences, where sums are in the mix: sums with nothing before them
PROMPT = -1
KINDS = ("set", *tasks.TASKS)
_PIECE_TEXT = {" ": "Ġ", "\n": "Ċ"}


@dataclass(frozen=True)
class Stage:
    """One row of a curriculum.

    ``lengths_tokens`` are drawn from at random, each step; a batch holds ``batch_tokens`` tokens.
    The stage ends after ``max_steps`` or when every kind in ``goals`` reaches its accuracy.
    ``kinds`` are the question kinds, repeated to weigh them; ``crowd`` scales how many facts a
    document holds; ``stretch`` is the share of sequences whose positions are spread over the
    window.
    """

    name: str
    lengths_tokens: tuple[int, ...]
    batch_tokens: int
    max_steps: int
    learning_rate: float
    kinds: tuple[str, ...]
    goals: dict[str, float]
    crowd: float = 1.0
    stretch: float = 0.0
    document_share: tuple[float, float] = (0.4, 0.6)


EASY = ("recall", "recall", "copying", "copying")
SMALL_MIX = (*EASY, *EASY, "multi_hop", "arithmetic")
LARGE_MIX = (*EASY, "multi_hop", "multi_hop", "arithmetic", "arithmetic")
SUMS = ("arithmetic",) * 10 + ("recall", "copying", "multi_hop")
HOPS = ("multi_hop",) * 8 + ("recall", "recall", "copying", "arithmetic")
LAST = (*EASY, *("multi_hop",) * 6, "arithmetic")
WEAVE = (64, 64, 128, 128, 256, 256, 512, 1024, 2048, 4096)
REACH = (256, 512, 1024, 2048, 4096, 8192)
SURE = {"recall": 0.985, "copying": 0.985}
SURER = SURE | {"multi_hop": 0.97}
CURRICULA: dict[str, tuple[Stage, ...]] = {
    "loom-s": (
        Stage("few", (64,), 4096, 300, 2e-3, ("recall",), {"recall": 0.95}),
        Stage("short", (64, 128), 4096, 800, 3e-3, SMALL_MIX, SURE),
        Stage("crowd", (128, 256), 8192, 300, 2e-3, SMALL_MIX, SURE, 2.0, 0.3),
        Stage("middle", (256, 512, 1024), 8192, 300, 2e-3, EASY, SURE, 2.0, 0.3),
        Stage("reach", REACH, 8192, 360, 1.5e-3, EASY, {}, 1.0, 0.3, (0.6, 0.95)),
    ),
    "loom-l": (
        Stage("few", (64,), 4096, 300, 2e-3, ("recall",), {"recall": 0.95}),
        Stage("short", (64, 128), 4096, 800, 2e-3, LARGE_MIX, SURER),
        Stage("sums", (64,), 4096, 600, 2e-3, SUMS, {"arithmetic": 0.995}, 1.0, 0.0, (0.0, 0.4)),
        Stage("hops", (64, 128), 4096, 350, 2e-3, HOPS, {"multi_hop": 0.98}, 3.0, 0.2),
        Stage("crowd", (128, 256), 4096, 200, 2e-3, LAST, SURER, 2.0, 0.3),
        Stage("middle", (256, 512, 1024), 4096, 120, 2e-3, LAST, SURER, 2.0, 0.3),
        Stage("reach", (64, 128, *REACH), 8192, 90, 1.5e-3, LAST, {}, 1.0, 0.3, (0.5, 0.95)),
        Stage("weave", WEAVE, 4096, 250, 1.5e-3, LAST, {}, 1.0, 0.2, (0.5, 0.9)),
    ),
}


def make_config(name: str, vocabulary: int, end: int, pad: int) -> PretrainedConfig:
    """Return the architecture of ``name``."""
    shared = {
        "vocab_size": vocabulary,
        "head_dim": 64,
        "num_key_value_heads": 2,
        "max_position_embeddings": MAX_POSITIONS,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA},
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": pad,
        "initializer_range": 0.04,
    }
    if name == "loom-s":
        return LlamaConfig(
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            **shared,
        )
    return Qwen3Config(
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=6,
        **shared,
    )


def make_model(config: PretrainedConfig) -> PreTrainedModel:
    """Return a fresh float32 model of ``config`` that attends with ``causal_attention``."""
    AttentionInterface.register("tiny_causal", causal_attention)
    kind = LlamaForCausalLM if config.model_type == "llama" else Qwen3ForCausalLM
    model = kind(config)
    model.set_attn_implementation("tiny_causal")
    return model


def causal_attention(
    _module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _attention_mask: Tensor | None,
    scaling: float,
    **_: object,
) -> tuple[Tensor, None]:
    """Attend causally: (batch, heads, length, dim) to (batch, length, heads, dim).

    Short sequences take plain matrix products, whose backward pass is far faster on a
    CPU than the fused kernel's; long ones take the fused kernel, whose memory stays linear.
    """
    batch, heads, length, dim = query.shape
    kv_heads = key.shape[1]
    if length >= FLASH_FROM_TOKENS:
        out = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=heads != kv_heads
        )
        return out.transpose(1, 2), None
    grouped = query.reshape(batch * kv_heads, heads // kv_heads * length, dim) * scaling
    scores = grouped @ key.reshape(batch * kv_heads, length, dim).transpose(1, 2)
    mask = torch.full((length, length), -math.inf, dtype=scores.dtype).triu(1)
    scores = scores.view(batch, heads, length, length)
    weights = (scores + mask).softmax(-1).view(batch * kv_heads, -1, length)
    out = weights @ value.reshape(batch * kv_heads, length, dim)
    return out.view(batch, heads, length, dim).transpose(1, 2), None


class Writer:
    """Turns conversations into token ids, target ids and the kind of question of each target."""

    def __init__(self, vocabulary: dict[str, int]) -> None:
        self._ids = vocabulary

    def _encode(self, text: str) -> list[int]:
        pieces = tasks.split_tokens(text)
        return [self._ids[_PIECE_TEXT.get(piece, piece)] for piece in pieces]

    def _message(self, role: str, text: str) -> tuple[list[int], list[int]]:
        """Return the ids of one message up to its end token, and a mark for each."""
        ids, marks = [self._ids[f"<|{role}|>"]], [PROMPT]
        for number, line in enumerate(text.split("\n")):
            piece = self._encode(line if number == 0 else "\n" + line)
            ids += piece
            marks += [PROMPT] * len(piece)
        return [*ids, self._ids[END]], [*marks, PROMPT]

    def conversation(self, chat: tasks.Conversation) -> tuple[list[int], list[int]]:
        """Return the ids of ``chat`` and their marks: a kind's number, or ``PROMPT``."""
        ids, marks = self._message("system", chat.system) if chat.system is not None else ([], [])
        for turn in chat.turns:
            asked, asked_marks = self._message("user", turn.user)
            answer = [*self._encode(turn.answer), self._ids[END]]
            ids += [*asked, self._ids["<|assistant|>"], *answer]
            marks += [*asked_marks, PROMPT] + [KINDS.index(turn.kind)] * len(answer)
        return ids, marks


def study(stage: Stage, rng: random.Random, length: int) -> tasks.Conversation:
    """Return one document and questions about it, ``length`` tokens in all."""
    room = length * stage.crowd
    most_facts = max(3, min(128, int(room / 12)))
    facts = round(math.exp(rng.uniform(math.log(2), math.log(most_facts))))
    lists = rng.randint(1, max(1, min(4, int(room / 150)))) if "copying" in stage.kinds else 0
    chains = rng.randint(1, max(1, min(12, int(room / 50)))) if "multi_hop" in stage.kinds else 0
    if lists and chains and length < 100:
        lists, chains = rng.choice(((1, 0), (0, 1)))
    present = {"copying": bool(lists), "multi_hop": bool(chains)}
    return tasks.study_session(
        rng.getrandbits(48),
        length,
        facts=min(facts, 3) if length < 100 else facts,
        lists=lists,
        list_words=rng.randint(2, max(3, min(32, length // 20))),
        chains=chains,
        document_share=rng.uniform(*stage.document_share),
        kinds=tuple(kind for kind in stage.kinds if present.get(kind, True)),
    )


def chat(stage: Stage, rng: random.Random, length: int) -> tasks.Conversation:
    """Return a chat that tells facts over many turns, longer or shorter than ``length`` tokens."""
    return tasks.conversation(
        rng.getrandbits(48),
        min(60, length // 12),
        facts_per_turn=rng.randint(1, 4),
        set_every_turns=rng.randint(2, 5),
        filler_tokens_per_turn=rng.choice((0, 16, length // 16, length // 8)),
        kinds=stage.kinds,
        list_words=rng.randint(2, 6),
        system_facts=rng.choice((0, 3)),
    )


def sums(rng: random.Random, length: int) -> tasks.Conversation:
    """Return sums with nothing before them."""
    seed = rng.getrandbits(48)
    return tasks.study_session(seed, length, facts=0, document_share=0.0, kinds=("arithmetic",))


def draw(
    writer: Writer, stage: Stage, rng: random.Random, length: int
) -> tuple[list[int], list[int]]:
    """Return one training sequence of at most ``length`` tokens and its marks."""
    if "arithmetic" in stage.kinds and rng.random() < BARE_SHARE:
        made = sums(rng, min(length, 128))
    elif length >= SHORTEST_CHAT_TOKENS and rng.random() < CHAT_SHARE:
        made = chat(stage, rng, length)
    else:
        made = study(stage, rng, length)
    ids, marks = writer.conversation(made)
    return ids[:length], marks[:length]


@dataclass(frozen=True)
class Batch:
    """One step's input.

    ``ids``, ``marks`` and ``positions`` are (batch, length).
    """

    ids: Tensor
    marks: Tensor
    positions: Tensor


def make_batch(writer: Writer, stage: Stage, rng: random.Random, pad: int) -> Batch:
    """Return the batch of one step."""
    length = rng.choice(stage.lengths_tokens)
    rows = max(1, stage.batch_tokens // length)
    drawn = [draw(writer, stage, rng, length) for _ in range(rows)]
    ids = torch.tensor([row + [pad] * (length - len(row)) for row, _ in drawn])
    marks = torch.tensor([row + [PROMPT] * (length - len(row)) for _, row in drawn])
    positions = torch.arange(length).repeat(rows, 1)
    for row in range(rows):
        if rng.random() < stage.stretch:
            positions[row] += stretched(rng, length)
    return Batch(ids, marks, positions)


def stretched(rng: random.Random, length: int) -> Tensor:
    """Return offsets (length,) that open one to three gaps, up to the whole window in all."""
    jumps = torch.zeros(length, dtype=torch.long)
    spare = MAX_POSITIONS - length
    is_far = rng.random() < FAR_STRETCH_SHARE
    for _ in range(rng.randint(1, 3)):
        if spare > 1:
            jump = rng.randrange(spare) if is_far else int(spare ** rng.random())
            jumps[rng.randrange(1, length)] += jump
            spare -= jump
    return jumps.cumsum(0)


def hidden_states(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Return the last hidden states (batch, length, width)."""
    body = model.model
    hidden = body.embed_tokens(batch.ids)
    rotary = body.rotary_emb(hidden, batch.positions)
    for layer in body.layers:
        hidden = layer(hidden, attention_mask=None, position_embeddings=rotary)
    return body.norm(hidden)


@dataclass
class Progress:
    """How far a run has come; ``seconds`` is wall-clock time spent training."""

    stage: str = ""
    stage_step: int = 0
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0


class Trainer:
    """The model, its bfloat16 copy, the optimizers and how far the curriculum has come."""

    def __init__(self, name: str, work: Path, seed: int) -> None:
        torch.manual_seed(seed)
        self.name, self.work, self.seed = name, work, seed
        work.mkdir(parents=True, exist_ok=True)
        self.tokenizer = write(work / "tokenizer")
        vocabulary = self.tokenizer.get_vocab()
        self.writer = Writer(vocabulary)
        self.pad = vocabulary[PAD]
        self.config = make_config(name, len(vocabulary), vocabulary[END], self.pad)
        self.model = make_model(self.config)
        with torch.no_grad():
            start_near_copying(self.model, vocabulary["<|assistant|>"])
        self.fast = copy.deepcopy(self.model).bfloat16()
        matrices = [p for n, p in self.model.named_parameters() if p.ndim == 2 and "embed" not in n]
        others = [p for n, p in self.model.named_parameters() if p.ndim < 2 or "embed" in n]
        self.optimizers = [
            torch.optim.Muon(matrices, lr=1.0, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=1.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        ]
        self.progress = Progress()
        self.done: list[str] = []
        self.accuracy: dict[str, float] = {}

    @property
    def checkpoint(self) -> Path:
        return self.work / f"{self.name}.pt"

    def save(self) -> None:
        """Write the whole state, atomically."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "progress": asdict(self.progress),
            "done": self.done,
            "accuracy": self.accuracy,
        }
        partial = self.checkpoint.with_suffix(".part")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def load(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.progress, self.done = Progress(**state["progress"]), state["done"]
        self.accuracy = state["accuracy"]
        self._refresh()

    def _refresh(self) -> None:
        """Copy the float32 weights into the bfloat16 copy."""
        for fast, full in zip(self.fast.parameters(), self.model.parameters(), strict=True):
            fast.data.copy_(full.data)

    def step(self, stage: Stage, rate: float, rng: random.Random) -> float:
        """Take one optimizer step at learning rate ``rate``; return the mean loss."""
        batch = make_batch(self.writer, stage, rng, self.pad)
        hidden = hidden_states(self.fast, batch)[:, :-1]
        wanted = batch.marks[:, 1:] >= 0
        targets, kinds = batch.ids[:, 1:][wanted], batch.marks[:, 1:][wanted]
        logits = functional.linear(hidden[wanted], self.fast.lm_head.weight).float()
        loss = functional.cross_entropy(logits, targets)
        loss.backward()
        self._count(logits.argmax(-1) == targets, kinds)
        for fast, full in zip(self.fast.parameters(), self.model.parameters(), strict=True):
            full.grad = fast.grad.float()
            fast.grad = None
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        self._refresh()
        self.progress.tokens += batch.ids.numel()
        return float(loss.detach())

    def _count(self, right: Tensor, kinds: Tensor) -> None:
        """Move each kind's running accuracy towards this batch's."""
        for number, kind in enumerate(KINDS):
            mine = kinds == number
            if mine.any():
                now = float(right[mine].float().mean())
                self.accuracy[kind] = 0.9 * self.accuracy.get(kind, 0.0) + 0.1 * now

    def run(self, minutes: float) -> None:
        """Go through the curriculum's remaining stages for at most ``minutes`` minutes."""
        started = saved = time.monotonic()
        before_s = self.progress.seconds
        for stage in CURRICULA[self.name]:
            if stage.name in self.done:
                continue
            if self.progress.stage != stage.name:
                self.progress.stage, self.progress.stage_step = stage.name, 0
                self.accuracy = {}
            while not self._finished(stage):
                if time.monotonic() - started >= minutes * 60:
                    self.save()
                    return
                rate = learning_rate(stage, self.progress.stage_step)
                rng = random.Random(self.seed * 1_000_003 + self.progress.steps)
                loss = self.step(stage, rate, rng)
                self.progress.stage_step += 1
                self.progress.steps += 1
                now = time.monotonic()
                self.progress.seconds = before_s + now - started
                if self.progress.steps % LOG_EVERY_STEPS == 0:
                    self._log(loss)
                if now - saved > CHECKPOINT_EVERY_S:
                    self.save()
                    saved = now
            self.done.append(stage.name)
            self.save()

    def _finished(self, stage: Stage) -> bool:
        """Say whether ``stage`` has met its goals or used up its steps."""
        met = all(self.accuracy.get(kind, 0.0) >= goal for kind, goal in stage.goals.items())
        return self.progress.stage_step >= stage.max_steps or (bool(stage.goals) and met)

    def _log(self, loss: float) -> None:
        shown = " ".join(f"{kind} {value:.3f}" for kind, value in sorted(self.accuracy.items()))
        p = self.progress
        print(
            f"{p.seconds:6.0f} s  {p.stage:8} {p.stage_step:5} "
            f"{p.tokens / 1e6:7.2f} Mtok  loss {loss:.3f}  {shown}",
            flush=True,
        )


def start_near_copying(model: PreTrainedModel, opening: int) -> None:
    """Initialize attention close to the circuits that recall needs.

    The residual stream is split into a direction all embeddings share, a part for the token itself,
    a part for the word a value belongs to and a part for the word asked for. Heads of layer 0 read
    only the shared direction, attend a fixed number of tokens back (``LOOK_BACK``) and copy that
    token into one of the last two parts; later heads compare those two, in rotary dimensions too
    slow to feel distance, and copy the token they find. Training then has to sort and sharpen
    heads that exist rather than find them. Feed-forward layers start at random. ``opening`` is the
    id of the token that opens an answer, where the word asked for stands three tokens back.
    """
    config = model.config
    width, dim, groups = config.hidden_size, config.head_dim, config.num_key_value_heads
    per_group = config.num_attention_heads // groups
    part = min(dim, (width - dim) // 2 - 1)
    basis = torch.linalg.qr(torch.randn(width, width)).Q
    shared, token = basis[0], basis[1 : 1 + dim]
    owner, asked = basis[1 + dim : 1 + dim + part], basis[1 + dim + part : 1 + dim + 2 * part]
    embedding = model.model.embed_tokens.weight
    embedding.copy_(torch.randn(embedding.shape[0], dim) @ token / math.sqrt(dim) + 0.7 * shared)
    opens = functional.normalize(embedding[opening] - 0.7 * shared, dim=0)
    readers = {1: shared - opens, 2: shared, 3: opens}
    squeeze = torch.linalg.qr(torch.randn(dim, dim)).Q[:part] * math.sqrt(dim / part)
    outputs = {"owner": owner.T @ squeeze, "asked": asked.T @ squeeze, "token": token.T}
    for number, layer in enumerate(model.model.layers):
        attention = layer.self_attn
        slow = torch.linalg.qr(torch.randn(dim, dim)).Q[:, :part] * _slow_dimensions(dim)[:, None]
        for group in range(groups):
            mine = slice(group * dim, (group + 1) * dim)
            attention.v_proj.weight[mine] = token / width**0.25
            here = _pointer(dim, 0)[:, None] * shared
            attention.k_proj.weight[mine] = CONTENT_GAIN * slow @ owner if number else here
        for head in range(config.num_attention_heads):
            rows = slice(head * dim, (head + 1) * dim)
            back, output = LOOK_BACK[head % len(LOOK_BACK)]
            if number:
                attention.q_proj.weight[rows] = CONTENT_GAIN * slow @ asked
                output = "asked" if head == 0 else "token"
            else:
                attention.q_proj.weight[rows] = _pointer(dim, back)[:, None] * readers[back]
            attention.o_proj.weight[:, rows] = outputs[output] / width**0.25 / per_group**0.5
        if config.model_type == "qwen3":
            attention.q_norm.weight.fill_(2.0)


def _slow_dimensions(dim: int) -> Tensor:
    """Return 1 for the rotary dimensions that barely turn over the window, else 0; (dim,)."""
    pair = torch.arange(dim) % (dim // 2)
    return (ROPE_THETA ** (-2 * pair / dim) < 1e-3).float()


def _pointer(dim: int, back_tokens: int) -> Tensor:
    """Return the vector (dim,) whose rotary product with ``_pointer(dim, 0)`` peaks there."""
    pair = torch.arange(dim // 2)
    angle = -back_tokens * ROPE_THETA ** (-2 * pair / dim)
    # The first four pairs alone line up again 3,000 to 7,000 tokens away; slower ones forbid it.
    strength = POINTER_GAIN * ((pair < 4).float() + 0.5 * ((pair >= 4) & (pair < 12)).float())
    return torch.cat((strength * angle.cos(), strength * angle.sin()))


def learning_rate(stage: Stage, step: int) -> float:
    """Return the rate at ``step``: a short warm-up, then half a cosine down to a tenth."""
    warm = min(1.0, (step + 1) / 20)
    return stage.learning_rate * warm * (0.55 + 0.45 * math.cos(math.pi * step / stage.max_steps))


def export(model: PreTrainedModel, folder: Path) -> None:
    """Write the Hugging Face folder: weights rounded to float16, to be computed in float32."""
    tokenizer = write(folder)
    weights = {
        name: tensor.half().contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict()
    config.pop("_name_or_path", None)
    config.update(architectures=[type(model).__name__], dtype="float32", rope_theta=ROPE_THETA)
    (folder / "model.safetensors").chmod(0o644)
    _write_json(folder / "config.json", config)
    generation = {
        "do_sample": False,
        "eos_token_id": tokenizer.token_to_id(END),
        "pad_token_id": tokenizer.token_to_id(PAD),
        "max_new_tokens": 64,
    }
    _write_json(folder / "generation_config.json", generation)


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    """Train for a while and, if asked, write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(CURRICULA))
    parser.add_argument("--work", type=Path, required=True, help="where checkpoints go")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--export", type=Path, help="write the Hugging Face folder here at the end")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    trainer = Trainer(options.name, options.work, options.seed)
    trainer.load()
    trainer.run(options.minutes)
    if options.export:
        export(trainer.model, options.export)


if __name__ == "__main__":
    main()
