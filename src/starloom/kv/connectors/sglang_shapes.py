"""SGLang's base class where SGLang is installed, else a stand-in of the same shape.

SGLang checks that a backend is a subclass. Read from SGLang 0.5.23
(`sglang/srt/mem_cache/hicache_storage.py`); a test compares with the wheel.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    HAVE_SGLANG = False
else:
    try:
        from sglang.srt.mem_cache.hicache_storage import HiCacheStorage

        HAVE_SGLANG = True
    except ImportError:
        HAVE_SGLANG = False

if not HAVE_SGLANG:

    class HiCacheStorage:
        def register_mem_pool_host(self, mem_pool_host: Any) -> None:
            self.mem_pool_host = mem_pool_host
