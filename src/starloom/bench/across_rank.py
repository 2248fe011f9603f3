"""One rank of a small training run over two sites: torch over gloo, the shipped tiny model.

Forked from a process that has torch, and moved into its site's namespace. Everything is a function
of the seed and the step, so that a run that was killed and resumed from its checkpoint ends at the
same loss.

- `dp`: gradients around a ring, chunk by chunk as in the text-book: 2 (d - 1) steps of isend and
  recv. gloo's own all-reduce may take other ways; this one is what the formulas describe.
- `pp`: two stages, plain 1F1B.
- `local`: every rank for itself, then the mean of the changes goes around the same ring and an
  outer Nesterov step takes it (after DiLoCo, arXiv:2311.08105).
"""

import os
import signal
import time
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from starloom.bench.across_line import DEVICE, enter
from starloom.serve.tiny import model_path

_BATCH, _TOKENS = 2, 32
_RATE, _OUTER_RATE, _OUTER_MOMENTUM = 1e-3, 0.7, 0.9


def rank_in(holder: int, asked: dict[str, Any], answer: Connection) -> None:
    """Enter a site, train, answer; the process's target."""
    enter(holder)
    os.environ["GLOO_SOCKET_IFNAME"] = DEVICE
    try:
        answer.send(train(asked))
    except RuntimeError as error:  # gloo's, where another rank is gone: the bench knows of it
        raise SystemExit(f"rank {asked['rank']}: {error}") from None
    finally:
        answer.close()


def train(asked: dict[str, Any]) -> dict[str, Any]:
    """All steps of one rank: what each took, and its loss."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    torch.manual_seed(asked["seed"])
    rank, world = asked["rank"], asked["world"]
    dist.init_process_group(
        "gloo",
        init_method=f"file://{asked['meeting']}",  # TCP would ask a DNS that a site has not
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=60),
    )
    kinds = {"dp": DataParallel, "pp": Pipelined, "local": LocalSteps}
    run = kinds[asked["strategy"]](asked)
    checkpoint = Path(asked["checkpoint"]) if asked.get("checkpoint") else None
    begin = run.load(checkpoint) if checkpoint is not None and checkpoint.exists() else 0
    seconds: list[float] = []
    losses: list[float] = []
    for step in range(begin, asked["steps"]):
        if asked.get("kill_at") == step and rank == world - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        began = time.perf_counter()
        losses.append(run.step(step))
        seconds.append(time.perf_counter() - began)
        every = asked.get("save_every", 0)
        if checkpoint is not None and rank == 0 and every and (step + 1) % every == 0:
            run.save(checkpoint, step + 1)
    dist.barrier()
    dist.destroy_process_group()
    return {"rank": rank, "seconds": seconds, "losses": losses}


def sequences(vocabulary: int, seed: int, step: int, replica: int, count: int) -> Tensor:
    """Token rows of a noisy affine walk: something that a tiny model can learn."""
    drawn = torch.Generator().manual_seed(seed * 1_000_003 + step * 1_009 + replica)
    rows = torch.randint(vocabulary, (count, _TOKENS + 1), generator=drawn)
    keep = torch.rand((count, _TOKENS + 1), generator=drawn) < 0.9
    for at in range(1, _TOKENS + 1):
        rows[:, at] = torch.where(keep[:, at], (5 * rows[:, at - 1] + 7) % 64, rows[:, at])
    return rows


def ring_all_reduce(flat: Tensor, rank: int, world: int) -> Tensor:
    """Sum over all ranks, by 2 (world - 1) steps around the ring."""
    if world == 1:
        return flat
    size = -(-flat.numel() // world)
    chunks = functional.pad(flat, (0, size * world - flat.numel())).view(world, size).clone()
    came = torch.empty(size)
    after, before = (rank + 1) % world, (rank - 1) % world
    for step in range(2 * (world - 1)):
        out, into = (rank - step) % world, (rank - step - 1) % world
        sending = dist.isend(chunks[out].contiguous(), after)
        dist.recv(came, before)
        sending.wait()
        if step < world - 1:
            chunks[into] += came
        else:
            chunks[into] = came
    return chunks.view(-1)[: flat.numel()]


class _Run:
    """A model, an optimiser, and one step of the strategy."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.asked = asked
        self.rank, self.world = asked["rank"], asked["world"]
        self.model = AutoModelForCausalLM.from_pretrained(
            model_path("loom-s"), dtype=torch.float32, attn_implementation="sdpa"
        )
        self.model.train()
        self.optimiser = torch.optim.AdamW(self.parameters(), lr=_RATE)

    def parameters(self) -> list[Tensor]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def step(self, number: int) -> float:
        raise NotImplementedError

    def save(self, path: Path, step: int) -> None:
        """All or nothing: a rank may be killed while it writes."""
        state = {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}
        torch.save({**state, "step": step}, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def load(self, path: Path) -> int:
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        return int(state["step"])

    def _loss(self, number: int) -> Tensor:
        vocabulary = self.model.config.vocab_size
        rows = sequences(vocabulary, self.asked["seed"], number, self.rank, _BATCH)
        logits = self.model(rows[:, :-1], use_cache=False).logits
        return functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


class DataParallel(_Run):
    """Every rank a replica; the mean of gradients before each update."""

    def step(self, number: int) -> float:
        self.optimiser.zero_grad(set_to_none=True)
        loss = self._loss(number)
        loss.backward()
        held = [p for p in self.parameters() if p.grad is not None]
        flat = torch.cat([p.grad.flatten() for p in held if p.grad is not None])
        buckets = flat.chunk(self.asked["buckets"])
        mean = torch.cat([ring_all_reduce(b, self.rank, self.world) for b in buckets]) / self.world
        at = 0
        for p in held:
            p.grad = mean[at : at + p.numel()].view_as(p)
            at += p.numel()
        self.optimiser.step()
        return float(loss.detach())


class LocalSteps(_Run):
    """Own updates; every `local_steps` the mean change goes around."""

    def __init__(self, asked: dict[str, Any]) -> None:
        super().__init__(asked)
        self.shared = self._flat()
        self.momentum = torch.zeros_like(self.shared)

    def step(self, number: int) -> float:
        self.optimiser.zero_grad(set_to_none=True)
        loss = self._loss(number)
        loss.backward()
        self.optimiser.step()
        if (number + 1) % self.asked["local_steps"] == 0:
            self._exchange()
        return float(loss.detach())

    def _exchange(self) -> None:
        change = self.shared - self._flat()
        mean = ring_all_reduce(change, self.rank, self.world) / self.world
        self.momentum = _OUTER_MOMENTUM * self.momentum + mean
        self.shared = self.shared - _OUTER_RATE * (mean + _OUTER_MOMENTUM * self.momentum)
        at = 0
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(self.shared[at : at + p.numel()].view_as(p))
                at += p.numel()

    def _flat(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.parameters()])


class Pipelined(_Run):
    """Two stages: the embedding and the first layers, then the rest and the head."""

    def __init__(self, asked: dict[str, Any]) -> None:
        super().__init__(asked)
        layers = list(self.model.model.layers)
        cut = len(layers) // 2
        self.layers = layers[:cut] if self.rank == 0 else layers[cut:]
        self.shape = (_BATCH, _TOKENS, self.model.config.hidden_size)

    def step(self, number: int) -> float:
        self.optimiser.zero_grad(set_to_none=True)
        count = self.asked["microbatches"]
        vocabulary, seed = self.model.config.vocab_size, self.asked["seed"]
        rows = [sequences(vocabulary, seed, number, at, _BATCH) for at in range(count)]
        losses = self._first(rows) if self.rank == 0 else self._second(rows)
        self.optimiser.step()
        return losses

    def _first(self, rows: list[Tensor]) -> float:
        """One forward ahead, then forward and backward in turn."""
        outs: list[Tensor] = []
        sending: list[Any] = []

        def forward(at: int) -> None:
            outs.append(self._through(self.model.model.embed_tokens(rows[at][:, :-1])))
            sending.append(dist.isend(outs[-1].detach().contiguous(), 1))

        def backward(at: int) -> None:
            gradient = torch.empty(self.shape)
            dist.recv(gradient, 1)
            outs[at].backward(gradient / len(rows))

        forward(0)
        for at in range(1, len(rows)):
            forward(at)
            backward(at - 1)
        backward(len(rows) - 1)
        for one in sending:
            one.wait()
        return 0.0

    def _second(self, rows: list[Tensor]) -> float:
        total, sending = 0.0, []
        for row in rows:
            came = torch.empty(self.shape)
            dist.recv(came, 0)
            came.requires_grad_()
            hidden = self.model.model.norm(self._through(came))
            logits = self.model.lm_head(hidden)
            loss = functional.cross_entropy(logits.flatten(0, 1), row[:, 1:].flatten())
            loss.backward()
            total += float(loss.detach()) / len(rows)
            gradient = came.grad
            if gradient is None:
                raise RuntimeError("a stage without a gradient for the one before it")
            sending.append(dist.isend(gradient.contiguous(), 0))
        for p in self.parameters():
            if p.grad is not None:
                p.grad /= len(rows)
        for one in sending:
            one.wait()
        return total

    def _through(self, hidden: Tensor) -> Tensor:
        places = torch.arange(hidden.shape[1])[None, :]
        turns = self.model.model.rotary_emb(hidden, places)
        for layer in self.layers:
            out = layer(hidden, position_ids=places, position_embeddings=turns)
            hidden = out[0] if isinstance(out, tuple) else out
        return hidden
