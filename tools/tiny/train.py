"""Train a tiny model: ``python -m tools.tiny.train loom-s --work FOLDER --minutes 30``.

The curriculum is a table in ``tools.tiny.curriculum``: sequences grow from 64 to 8192 tokens, gaps
spread their positions over the whole window, and a stage ends once its questions are answered well
enough or its steps are used up. Weights are kept in float32; forward and backward run on a copy, in
bfloat16 where the CPU is fast at it. The run is seeded, writes a checkpoint into ``--work`` every
minute and goes on from it when started again; ``--export`` writes the shipped folder.
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
from tools.tiny.curriculum import CURRICULA, Stage
from tools.tiny.data import KINDS, Writer, make_batch
from tools.tiny.model import MAX_POSITIONS, ROPE_THETA, hidden_states, make_config, make_model
from tools.tiny.muon import Muon
from tools.tiny.start import start_near_copying
from tools.tiny.tokenizer import END, PAD, write
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

CHECKPOINT_EVERY_S = 60.0
LOG_EVERY_STEPS = 20
SHARPENED = math.log(MAX_POSITIONS) / math.log(4096)


@dataclass
class Progress:
    """How far a run has come; ``seconds`` is the CPU time that it took."""

    stage: str = ""
    stage_step: int = 0
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0


class Trainer:
    """The model, its working copy, the optimizers and how far the curriculum has come."""

    def __init__(
        self, name: str, work: Path, seed: int, dtype: torch.dtype = torch.float32
    ) -> None:
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
            start_near_copying(self.model, vocabulary["<|assistant|>"], vocabulary["??"])
        self.fast = copy.deepcopy(self.model).to(dtype)
        matrices = [p for n, p in self.model.named_parameters() if p.ndim == 2 and "embed" not in n]
        others = [p for n, p in self.model.named_parameters() if p.ndim < 2 or "embed" in n]
        self.optimizers = [
            Muon(matrices, weight_decay=0.01),
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
        """Copy the float32 weights into the working copy."""
        for fast, full in zip(self.fast.parameters(), self.model.parameters(), strict=True):
            fast.data.copy_(full.data)

    def step(self, stage: Stage, rate: float, rng: random.Random) -> float:
        """Take one optimizer step at learning rate ``rate``; return the mean loss."""
        batch = make_batch(self.writer, stage, rng, self.pad)
        hidden = hidden_states(self.fast, batch.ids, batch.positions)[:, :-1]
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
        """Go through the remaining stages for at most ``minutes`` minutes of CPU time."""
        started = saved = time.process_time()
        before_s = self.progress.seconds
        for stage in CURRICULA[self.name]:
            if stage.name in self.done:
                continue
            if self.progress.stage != stage.name:
                self.progress.stage, self.progress.stage_step = stage.name, 0
                self.accuracy = {}
            while not self._finished(stage):
                if time.process_time() - started >= minutes * 60:
                    self.save()
                    return
                rate = learning_rate(stage, self.progress.stage_step)
                rng = random.Random(self.seed * 1_000_003 + self.progress.steps)
                loss = self.step(stage, rate, rng)
                self.progress.stage_step += 1
                self.progress.steps += 1
                now = time.process_time()
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


def learning_rate(stage: Stage, step: int) -> float:
    """Return the rate at ``step``: a short warm-up, then half a cosine down to a tenth."""
    warm = min(1.0, (step + 1) / 20)
    return stage.learning_rate * warm * (0.55 + 0.45 * math.cos(math.pi * step / stage.max_steps))


def export(model: PreTrainedModel, folder: Path) -> None:
    """Write the Hugging Face folder: weights rounded to float16, to be computed in float32.

    Queries that have a norm get a larger gain than they were trained with: the logit by which one
    key stands out of n must grow as log n (arXiv:2501.19399), and the window is longer than what
    training reads.
    """
    tokenizer = write(folder)
    weights = {
        name: (tensor * (SHARPENED if "q_norm" in name else 1.0)).half().contiguous()
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


def fast_dtype() -> str:
    """Return what to compute in: bfloat16 where the CPU multiplies it, else float32."""
    return "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"  # noqa: SLF001


def main() -> None:
    """Train for a while and, if asked, write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(CURRICULA))
    parser.add_argument("--work", type=Path, required=True, help="where checkpoints go")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default=fast_dtype())
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--export", type=Path, help="write the Hugging Face folder here at the end")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    trainer = Trainer(options.name, options.work, options.seed, getattr(torch, options.dtype))
    trainer.load()
    trainer.run(options.minutes)
    if options.export:
        export(trainer.model, options.export)


if __name__ == "__main__":
    main()
