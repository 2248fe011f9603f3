"""A KV connector for vLLM on a pool of ours: prefixes come from it, new blocks go to it.

    --kv-transfer-config '{"kv_connector": "StarloomConnector", "kv_role": "kv_both",
      "kv_connector_module_path": "starloom.kv.connectors.vllm_connector",
      "kv_connector_extra_config": {"pool": "pool:///run/starloom/pool.sock"}}'

Loads are part of the forward pass, layer by layer; what does not come is reported as failed blocks,
so set `kv_load_failure_policy` to `recompute`. Requests with images or with embeddings in place of
tokens are left alone, for their tokens do not say what they hold.
"""

import logging
from collections.abc import Iterable
from typing import Any

from starloom.kv.connectors.opening import SETTINGS, TIMEOUT_S, open_pool, wall
from starloom.kv.connectors.vllm_mover import Layers, Mover, rank_key
from starloom.kv.connectors.vllm_plan import Planner, StepPlan
from starloom.kv.connectors.vllm_shapes import KVConnectorBase_V1, KVConnectorMetadata
from starloom.kv.errors import KvError
from starloom.kv.keys import block_keys

BLOCK_TOKENS = 256
_KNOWN = {"block_tokens", "namespace", *SETTINGS}
_log = logging.getLogger("starloom.kv.connectors")


class StarloomConnector(KVConnectorBase_V1):
    """One object in the scheduler (which asks) and one in each worker (which moves)."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any = None) -> None:
        """Raises ValueError for settings that are not known or do not fit."""
        super().__init__(vllm_config, role, kv_cache_config)
        extra = dict(vllm_config.kv_transfer_config.kv_connector_extra_config)
        if unknown := set(extra) - _KNOWN:
            raise ValueError(
                f"kv_connector_extra_config: {', '.join(sorted(unknown))} is not known; "
                f"there are: {', '.join(sorted(_KNOWN))}"
            )
        cache, model = vllm_config.cache_config, vllm_config.model_config
        parallel = vllm_config.parallel_config
        timeout_s = float(extra.get("timeout_s", TIMEOUT_S))
        vllm_tokens = int(cache.block_size)
        default = max(BLOCK_TOKENS // vllm_tokens, 1) * vllm_tokens
        self._planner = Planner(vllm_tokens, int(extra.get("block_tokens", default)))
        self._ranks = int(parallel.world_size)
        self._facts = (
            "vllm connector",
            extra.get("namespace", ""),
            model.model,
            getattr(model, "revision", ""),
            model.dtype,
            cache.cache_dtype,
            vllm_tokens,
            self._planner.block_tokens,
            parallel.tensor_parallel_size,
            parallel.pipeline_parallel_size,
        )
        self._pool = open_pool(
            **{"pool": "", **{name: extra[name] for name in SETTINGS & set(extra)}}
        )
        self._mover: Mover | None = None
        if "WORKER" in str(role):
            per_block = self._planner.block_tokens // vllm_tokens
            rank = int(parallel.rank)
            self._mover = Mover(self._pool, _tensors(), rank, per_block, timeout_s)
        self._blocks = int(getattr(kv_cache_config, "num_blocks", 0) or 0)

    @classmethod
    def requires_piecewise_for_cudagraph(cls, extra_config: dict[str, Any]) -> bool:
        """Layers are waited for in the middle of the model."""
        del extra_config
        return True

    @property
    def requires_kv_delivery(self) -> bool:
        """A save that is dropped is a miss later, nothing else."""
        return False

    # In the scheduler.

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        """Tokens that the pool has beyond those that are computed; they come with the step."""
        request_id = request.request_id
        if not self._planner.known(request_id):
            self._planner.begin(request_id, self._request_keys(request))
        keys = self._planner.keys(request_id)
        tokens = len(request.prompt_token_ids or ())
        if not keys or tokens <= num_computed_tokens:
            return 0, False
        try:
            held = self._held(keys)
        except KvError as error:
            _log.debug("a lookup is a miss: %s", error)
            held = 0
        return self._planner.matched(request_id, held, tokens, num_computed_tokens), False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Remember where vLLM wants the tokens."""
        groups = blocks.get_block_ids()
        if len(groups) > 1:
            raise ValueError("StarloomConnector moves one group of KV caches; this model has more")
        ids = groups[0] if groups else []
        self._planner.allocated(request.request_id, ids, num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        """What the workers load before this step and save after it."""
        tokens = scheduler_output.num_scheduled_tokens
        plan = StepPlan(loads=self._planner.loads())
        steps = [
            (new.req_id, new.block_ids, True, new.num_computed_tokens)
            for new in scheduler_output.scheduled_new_reqs
        ]
        cached = scheduler_output.scheduled_cached_reqs
        steps += [
            (request_id, blocks, request_id in cached.resumed_req_ids, computed)
            for request_id, blocks, computed in zip(
                cached.req_ids, cached.new_block_ids, cached.num_computed_tokens, strict=True
            )
        ]
        for request_id, groups, whole, computed in steps:
            blocks = groups[0] if groups else []
            span = self._planner.scheduled(
                request_id, blocks, whole, computed, tokens.get(request_id, 0)
            )
            if span is not None:
                plan.saves.append(span)
        return plan

    def request_finished(
        self, request: Any, block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        """Blocks are free at once: what was to be saved has been copied."""
        del block_ids
        self._planner.finished(request.request_id)
        return False, None

    # In a worker.

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        self._moving().register(kv_caches, self._blocks)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        del forward_context, kwargs
        self._moving().start_loads(self._plan().loads)

    def wait_for_layer_load(self, layer_name: str) -> None:
        self._moving().wait_for_layer(layer_name)

    def save_kv_layer(
        self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any
    ) -> None:
        del attn_metadata, kwargs
        self._moving().stage(self._plan().saves, layer_name, kv_layer)

    def wait_for_save(self) -> None:
        self._moving().save()

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        """Nothing is under way between steps."""
        del finished_req_ids
        return None, None

    def get_block_ids_with_load_errors(self) -> set[int]:
        return self._moving().take_failed()

    def shutdown(self) -> None:
        if self._mover is not None:
            self._mover.close()
        else:
            self._pool.close()

    def take_events(self) -> Iterable[Any]:
        return ()

    def _plan(self) -> StepPlan:
        plan = self._connector_metadata
        return plan if isinstance(plan, StepPlan) else StepPlan()

    def _moving(self) -> Mover:
        if self._mover is None:
            raise ValueError("this connector is the scheduler's: workers move KV")
        return self._mover

    def _request_keys(self, request: Any) -> list[bytes]:
        if getattr(request, "mm_features", None) or request.prompt_token_ids is None:
            return []
        if getattr(request, "prompt_embeds", None) is not None:
            return []
        adapter = getattr(request, "lora_request", None)
        root = wall(
            *self._facts,
            getattr(request, "cache_salt", None) or "",
            adapter.lora_name if adapter else "",
        )
        return block_keys(root, request.prompt_token_ids, self._planner.block_tokens)

    def _held(self, keys: list[bytes]) -> int:
        """Leading blocks of which every worker's part is there."""
        found = len(keys)
        for rank in range(self._ranks):
            mine = [rank_key(key, rank) for key in keys[:found]]
            found = self._pool.longest_prefix(mine) if mine else 0
        return found


def _tensors() -> Layers:
    """torch, in workers only."""
    from starloom.kv.connectors import tensors

    return tensors
