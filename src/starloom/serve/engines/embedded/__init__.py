"""The engine on torch: Llama-like models in float32 over a paged KV cache (extra `engine`)."""

from starloom.serve.engines.embedded.executor import EmbeddedExecutor

__all__ = ["EmbeddedExecutor"]
