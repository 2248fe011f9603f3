"""A gateway on a real socket in a thread, with engines that do what a script says."""

import asyncio
import contextlib
import hashlib
import itertools
import json
import socket
import threading
import time
from dataclasses import dataclass, field

import httpx
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from starloom.serve.base import Delta, LoadReport, TokenLogprob, Usage
from starloom.serve.gateway import Server, create_app
from starloom.site import Site

KEY = "sk-test-key"
OTHER_KEY = "sk-other-key"
TEMPLATE = (
    "{%- for m in messages -%}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)
SPECIALS = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]


def write_model(folder):
    """A byte-level tokenizer: one token a byte, and five special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: at for at, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIALS])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


SHAPE = {
    "layers": 1,
    "hidden": 64,
    "heads": 1,
    "kv_heads": 1,
    "head_dim": 64,
    "intermediate": 64,
    "vocab": 300,
}


def make_site(folder, *, workers=("w1",), gateway=None, context=2048, upstream=False):
    """A site with one model `m`, and `u` behind a server elsewhere if `upstream`."""
    write_model(folder / "m")
    model = {"name": "m", "tokenizer": "m", "shape": SHAPE, "block_tokens": 16}
    data = {
        "name": "test",
        "base": str(folder),
        "gateway": {"port": 0, **(gateway or {})},
        "nodes": [{"name": "n1"}],
        "models": [{**model, "context_tokens": context}],
        "workers": [
            {"name": name, "node": "n1", "model": "m", "engine": "emulated"} for name in workers
        ],
    }
    if upstream:
        data["models"].append({"name": "u"})
        data["workers"].append(
            {"name": "wu", "node": "n1", "model": "u", "engine": "openai", "url": "http://u/v1"}
        )
    return Site.model_validate(data)


class FakeEngine:
    """Answers with `script(request)`: an iterable of texts, deltas, seconds to sleep, errors."""

    def __init__(self, name, model="m", script=None, up=True):
        self.name = name
        self.model = model
        self.script = script or (lambda request: ["Hello", " world"])
        self.on_up = None
        self.on_down = None
        self.ready = False
        self.seen = []
        self.cancelled = 0
        self.running = 0
        self._up = up
        self._loop = None

    async def start(self):
        self._loop = asyncio.get_running_loop()
        if self._up:
            self.set_ready(True)

    async def close(self):
        pass

    def set_ready(self, ready):
        self.ready = ready
        (self.on_up if ready else self.on_down)(self.name)

    def switch(self, ready):
        """Come or go, from any thread."""
        self._loop.call_soon_threadsafe(self.set_ready, ready)

    def report(self):
        return LoadReport(running=self.running, kv_blocks=100, kv_blocks_used=7)

    async def export_blocks(self, keys):
        return {}

    async def import_blocks(self, blocks):
        return 0

    async def stream(self, request):
        self.seen.append(request)
        self.running += 1
        count = 0
        ended = False
        try:
            for step in self.script(request):
                if isinstance(step, BaseException):
                    ended = True
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                elif isinstance(step, Delta):
                    ended = step.finish is not None
                    yield step
                else:
                    count += 1
                    logprobs = self._logprobs(request, step)
                    yield Delta(id=request.id, text=step, tokens=1, logprobs=logprobs)
            if not ended:
                ended = True
                usage = Usage(
                    prompt_tokens=len(request.tokens), completion_tokens=count, cached_tokens=3
                )
                yield Delta(id=request.id, finish="stop", usage=usage)
        finally:
            self.running -= 1
            self.cancelled += not ended

    @staticmethod
    def _logprobs(request, text):
        if request.sampling.logprobs is None:
            return []
        tops = [(text, text.encode(), -0.5), ("é", "é".encode(), float("-inf"))]
        return [TokenLogprob(text, text.encode(), -0.5, tops[: request.sampling.logprobs])]


@dataclass
class Gate:
    """A gateway that serves."""

    url: str
    app: object
    server: Server
    thread: threading.Thread
    engines: list
    loop: asyncio.AbstractEventLoop
    headers: dict = field(default_factory=lambda: {"Authorization": f"Bearer {KEY}"})

    @property
    def port(self):
        return int(self.url.rpartition(":")[2])

    def client(self, **more):
        more.setdefault("verify", False)  # plain HTTP: reading all certificates takes 50 ms
        return httpx.Client(base_url=self.url, headers=self.headers, timeout=20, **more)

    def chat(self, content="hi", **more):
        """The answer to one POST."""
        body = {"model": "m", "messages": [{"role": "user", "content": content}], **more}
        with self.client() as client:
            return client.post("/v1/chat/completions", json=body)

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def outstanding(self):
        """Requests that the schedule believes unfinished, by worker."""
        return self.app._line._workers.table.outstanding()


@contextlib.contextmanager
def serving(site, engines, **more):
    """A real server in a thread, on a port that the system chose."""
    keys = {
        "acme": [hashlib.sha256(KEY.encode()).hexdigest()],
        "other": [hashlib.sha256(OTHER_KEY.encode()).hexdigest()],
    }
    numbers = itertools.count()
    more.setdefault("new_id", lambda: f"id{next(numbers)}")
    app = create_app(site, engines, keys, **more)
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(app, site.gateway)
    loops = []

    def run():
        async def main():
            loops.append(asyncio.get_running_loop())
            await server.serve([listener])

        asyncio.run(main())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    until(lambda: server.started)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield Gate(url, app, server, thread, engines, loops[0])
    finally:
        server.stop()
        thread.join(15)
        assert not thread.is_alive()


def until(condition, timeout_s=10.0):
    """Wait until something holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


def events(response):
    """The data of a stream of events."""
    return [line[6:] for line in response.text.split("\n") if line.startswith("data: ")]


def chunks(response):
    """The JSON objects in a stream of events, which ends with [DONE]."""
    data = events(response)
    assert data[-1] == "[DONE]"
    return [json.loads(item) for item in data[:-1]]


def raw_request(body=b"{}", path="/v1/chat/completions", **headers):
    """A POST as bytes."""
    fields = {
        "Host": "localhost",
        "Authorization": f"Bearer {KEY}",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def read_all(sock):
    """What a server says until it closes."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := sock.recv(65536):
            data += part
    return data
