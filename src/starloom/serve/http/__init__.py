"""HTTP/1.1 both ways: bounded connections of clients, kept-alive connections to upstreams."""

from starloom.serve.http.accept import Acceptor
from starloom.serve.http.exchange import Exchange, Gone, RawHeaders
from starloom.serve.http.server import Connection, HttpServer
from starloom.serve.http.upstream import Reply, Upstream, UpstreamError

__all__ = [
    "Acceptor",
    "Connection",
    "Exchange",
    "Gone",
    "HttpServer",
    "RawHeaders",
    "Reply",
    "Upstream",
    "UpstreamError",
]
