"""What computes: the contract between the scheduler of a worker and weights, or their emulation."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from typing_extensions import Buffer

from starloom.serve.engines.batch import Step


@dataclass(frozen=True, slots=True)
class Choice:
    """The token drawn for one sequence."""

    token: int
    logprob: float = 0.0
    """Natural logarithm of its probability before temperature; 0 where none was asked for."""
    top: list[tuple[int, float]] = field(default_factory=list)
    """The k most likely tokens and their logprobs, where asked for."""


class Executor(Protocol):
    """Computes steps over KV blocks that it owns. Used by one thread."""

    num_blocks: int
    block_bytes: int
    vocab: int
    """Token ids are below this."""

    def run(self, step: Step) -> Sequence[Choice]:
        """Compute a step: write its tokens' KV, and draw one token for each `step.sampled`."""

    def export_block(self, index: int) -> bytes:
        """A copy of one block: `block_bytes` bytes that `import_block` of the same model takes."""

    def import_block(self, index: int, data: Buffer) -> None:
        """Fill one block. Raises ValueError when `data` is not `block_bytes` long."""

    def close(self) -> None: ...
