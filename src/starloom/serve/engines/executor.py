"""What computes: the contract between the scheduler of a worker and weights, or their emulation."""

from collections.abc import Callable, Sequence
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
    layers: int
    """Parts of a block that are handed over one by one, as they are computed."""
    part_bytes: int
    """Bytes of one layer of one block, as it is handed over."""

    def run(self, step: Step, layer_done: Callable[[int], None] | None = None) -> Sequence[Choice]:
        """Compute a step: write its tokens' KV, and draw one token for each `step.sampled`.

        `layer_done` is told of each layer, in order, once its KV is written.
        """

    def export_block(self, index: int) -> bytes:
        """A copy of one block: `block_bytes` bytes that `import_block` of the same model takes."""

    def import_block(self, index: int, data: Buffer) -> None:
        """Fill one block. Raises ValueError when `data` is not `block_bytes` long."""

    def read_parts(self, layer: int, blocks: Sequence[int], target: memoryview) -> None:
        """Copy one layer of some blocks, to `len(blocks) * part_bytes` bytes.

        This and `write_parts` may be called by other threads while `run` computes other blocks.
        """

    def write_parts(self, layer: int, blocks: Sequence[int], data: memoryview) -> None:
        """Fill one layer of some blocks with what `read_parts` of the same model gave."""

    def transfer_s(self, blocks: int) -> float:
        """Modelled time of handing over a layer of some blocks; 0 where bytes take their own."""

    def close(self) -> None: ...
