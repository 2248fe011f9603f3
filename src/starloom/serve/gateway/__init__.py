"""The HTTP gateway: OpenAI's and Anthropic's APIs in front of workers."""

from starloom.serve.gateway.app import App
from starloom.serve.gateway.build import create_app
from starloom.serve.gateway.clock import Clock
from starloom.serve.gateway.record import RequestLog
from starloom.serve.gateway.server import Server, serve

__all__ = ["App", "Clock", "RequestLog", "Server", "create_app", "serve"]
