"""A worker's engine of `bench kvshare`, in a process of its own: prompts in, times out.

`python -m starloom.bench.kvshare_engine RUNDIR WORKER` reads a JSON line a prompt (`seed`,
`tokens`) and prints one: seconds to the first token, how many tokens came out of the pool, and the
answer.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from starloom.kv.keys import block_keys, root_key
from starloom.serve.base import EngineRequest, Sampling
from starloom.serve.engines.build import build_core
from starloom.serve.engines.core import EngineCore
from starloom.serve.rundir import RunDir

ANSWER_TOKENS = 4


def main(rundir: str, worker: str) -> None:
    """Serve prompts until the input ends."""
    run = RunDir(Path(rundir))
    site = run.site()
    core = build_core(site, run, worker, time.sleep)
    block_tokens = site.models[0].block_tokens
    _say(_ask(core, 0, 2 * block_tokens, block_tokens))  # the first step compiles and touches
    for line in sys.stdin:
        prompt = json.loads(line)
        _say(_ask(core, prompt["seed"], prompt["tokens"], block_tokens))
    core.close()


def _ask(core: EngineCore, seed: int, count: int, block_tokens: int) -> dict[str, object]:
    """One prompt of `count` tokens that nobody else has."""
    rng = np.random.default_rng([seed, count])
    tokens = [int(token) for token in rng.integers(0, core.executor.vocab, count)]
    root = root_key(fingerprint="kvshare", block_tokens=block_tokens, salt="")
    began = time.perf_counter()
    request = EngineRequest(
        id=f"{seed}-{count}",
        model="",
        tokens=tokens,
        keys=block_keys(root, tokens, block_tokens),
        root=root,
        sampling=Sampling(max_tokens=ANSWER_TOKENS, temperature=0),
    )
    refused = core.submit(request)
    if refused is not None:
        raise RuntimeError(refused.error)
    first_s, text, pool_tokens = 0.0, "", 0
    while not core.idle:
        for delta in core.step():
            first_s = first_s or time.perf_counter() - began
            text += delta.text
            pool_tokens = delta.usage.pool_tokens if delta.usage else pool_tokens
            if delta.error is not None:
                raise RuntimeError(delta.error)
    return {"ttft_s": first_s, "pool_tokens": pool_tokens, "text": text}


def _say(found: dict[str, object]) -> None:
    print(json.dumps(found), flush=True)  # noqa: T201 - stdout is the interface


if __name__ == "__main__":
    main(*sys.argv[1:])
