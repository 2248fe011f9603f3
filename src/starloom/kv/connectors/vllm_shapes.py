"""vLLM's own classes where vLLM is installed, else stand-ins of the same shape.

vLLM checks that a tier or a connector is a subclass of its base. The stand-ins let our code run,
and be tested, without vLLM; a test compares both with the source in vLLM's wheel. Read from
vLLM 0.33.0 (`vllm/v1/kv_offload`, `vllm/distributed/kv_transfer/kv_connector/v1/base.py`).
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    HAVE_VLLM = False
else:
    try:
        from vllm.distributed.kv_transfer.kv_connector.v1.base import (
            KVConnectorBase_V1,
            KVConnectorMetadata,
        )
        from vllm.v1.kv_offload.base import LookupResult, Medium, RequestOffloadingContext
        from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager

        HAVE_VLLM = True
    except ImportError:
        HAVE_VLLM = False

if not HAVE_VLLM:

    class LookupResult(Enum):
        MISS = auto()
        HIT = auto()
        HIT_PENDING = auto()
        RETRY = auto()

    class Medium(Enum):
        CPU = "CPU"
        STORAGE = "STORAGE"

    @dataclass
    class RequestOffloadingContext:
        pass

    @dataclass
    class JobResult:
        job_id: int
        success: bool
        successful_keys: Collection[bytes] | None = None
        transfer_time: float | None = None
        transfer_bytes: int | None = None

    class SecondaryTierManager:
        def __init__(
            self,
            offloading_spec: Any,
            primary_kv_view: memoryview,
            tier_type: str,
            backpressure_detector: Any = None,
        ) -> None:
            self._offloading_spec = offloading_spec
            self._primary_kv_view = primary_kv_view
            self.tier_type = tier_type
            self._bp_detector = backpressure_detector

    class KVConnectorMetadata:
        pass

    class KVConnectorBase_V1:  # noqa: N801  vLLM's name
        def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
            self._vllm_config, self._role = vllm_config, role
            self._kv_cache_config = kv_cache_config
            self._connector_metadata: Any = None

        def bind_connector_metadata(self, connector_metadata: Any) -> None:
            self._connector_metadata = connector_metadata

        def clear_connector_metadata(self) -> None:
            self._connector_metadata = None


@dataclass
class Span:
    """Tokens of a request that lie in blocks of ours, and where vLLM has them."""

    keys: list[bytes]
    """Of our blocks, before the rank is mixed in."""
    first: int
    """The first block of vLLM's to move, counted from the beginning of `keys[0]`."""
    block_ids: list[int] = field(default_factory=list)
    """vLLM's blocks from there on, to the end of the last of our blocks."""
