"""What a step of vLLM loads and saves: the scheduler's half of the connector, without I/O.

Our blocks are `block_tokens` tokens, a multiple of vLLM's `vllm_tokens`. Only full blocks of the
prompt count. A step saves the blocks whose last token it computes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from starloom.kv.connectors.vllm_shapes import KVConnectorMetadata, Span


@dataclass
class StepPlan(KVConnectorMetadata):
    """What the scheduler tells the workers of one step."""

    loads: list[Span] = field(default_factory=list)
    saves: list[Span] = field(default_factory=list)


@dataclass
class _Request:
    keys: list[bytes]
    """Of all full blocks of the prompt."""
    block_ids: list[int] = field(default_factory=list)
    held_blocks: int = 0
    """Leading blocks that the pool has, or that have been saved."""
    matched: tuple[int, int] = (0, 0)
    """Tokens from, to: what is to be loaded."""


class Planner:
    """Follows requests through the scheduler's calls."""

    def __init__(self, vllm_tokens: int, block_tokens: int) -> None:
        """Raises ValueError where ours is no multiple of vLLM's."""
        if block_tokens < 1 or block_tokens % vllm_tokens:
            raise ValueError(
                f"block_tokens {block_tokens} is no multiple of vLLM's block size {vllm_tokens}"
            )
        self.vllm_tokens, self.block_tokens = vllm_tokens, block_tokens
        self._requests: dict[str, _Request] = {}
        self._to_load: dict[str, int] = {}

    def known(self, request_id: str) -> bool:
        return request_id in self._requests

    def begin(self, request_id: str, keys: Sequence[bytes]) -> None:
        """A request is seen for the first time."""
        self._requests[request_id] = _Request(list(keys))

    def keys(self, request_id: str) -> list[bytes]:
        return self._requests[request_id].keys

    def matched(self, request_id: str, held: int, prompt_tokens: int, computed: int) -> int:
        """Tokens beyond `computed` to load, when `held` leading blocks are in the pool.

        The last token is always computed, for its logits are wanted.
        """
        request = self._requests[request_id]
        request.held_blocks = max(request.held_blocks, held)
        most = (prompt_tokens - 1) // self.vllm_tokens * self.vllm_tokens
        end = min(held * self.block_tokens, most)
        request.matched = (computed, max(computed, end))
        return request.matched[1] - computed

    def allocated(self, request_id: str, block_ids: Sequence[int], tokens: int) -> None:
        """A request has blocks; `tokens` of what was matched are to be loaded."""
        request = self._requests.get(request_id)
        if request is None:
            return
        request.block_ids = list(block_ids)
        if tokens > 0:
            self._to_load[request_id] = tokens

    def scheduled(
        self, request_id: str, new_blocks: Sequence[int], first: bool, computed: int, tokens: int
    ) -> Span | None:
        """A step computes `tokens` tokens after `computed`; what is to be saved after it.

        `first`: `new_blocks` are all blocks of the request, not more of them.
        """
        request = self._requests.get(request_id)
        if request is None:
            return None
        request.block_ids = [*([] if first else request.block_ids), *new_blocks]
        done = min((computed + tokens) // self.block_tokens, len(request.keys))
        start = request.held_blocks
        if done <= start:
            return None
        request.held_blocks = done
        per = self.block_tokens // self.vllm_tokens
        return Span(request.keys[start:done], 0, request.block_ids[start * per : done * per])

    def loads(self) -> list[Span]:
        """What the next step loads; asked once."""
        spans = []
        for request_id, tokens in self._to_load.items():
            request = self._requests[request_id]
            begin = request.matched[0]
            first, end = begin // self.vllm_tokens, (begin + tokens) // self.vllm_tokens
            per = self.block_tokens // self.vllm_tokens
            keys = request.keys[first // per : -(-end // per)]
            spans.append(Span(keys, first - first // per * per, request.block_ids[first:end]))
        self._to_load.clear()
        return spans

    def finished(self, request_id: str) -> None:
        self._requests.pop(request_id, None)
        self._to_load.pop(request_id, None)
