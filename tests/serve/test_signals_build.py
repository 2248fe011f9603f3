"""A site's signals together: from a server's sockets to the table that a schedule reads."""

import asyncio

from starloom.kv import block_keys, root_key
from starloom.serve.schedule import POLICIES, Ask, WorkerTable
from starloom.serve.signals import LoadBoard, Signals, cache_salt
from starloom.site import Site

from engine_fixtures import run_async, until
from fake_vllm import FakeVllm

PAGE = b'vllm:num_requests_running{engine="0"} 3\nvllm:num_requests_waiting{engine="0"} 1\n'
TOKENS = list(range(32))


def root_of(model, tenant):
    return root_key(fingerprint=f"elsewhere:{model}", block_tokens=4, salt=f"{tenant}\n")


def site_of(*servers):
    workers = [
        {
            "name": f"v{at}",
            "node": "n",
            "model": "m",
            "engine": "openai",
            "url": one.url + "/v1",
            "metrics": "vllm",
            "metrics_every_s": 0.1,
            "kv_events": {
                "endpoint": one.endpoint,
                "replay_endpoint": one.replay_endpoint,
                "topic": "kv-events",
                "tenant": "acme",
            },
        }
        for at, one in enumerate(servers)
    ]
    return Site.model_validate(
        {
            "name": "t",
            "nodes": [{"name": "n"}],
            "tenants": [{"name": "acme"}, {"name": "other"}],
            "models": [{"name": "m", "tokenizer": "package:loom-s", "block_tokens": 4}],
            "workers": workers,
        }
    )


def test_a_schedule_sees_what_servers_hold_and_how_busy_they_are():
    """Salted blocks by their salt's root, those of a tenant's own server by the tenant."""

    async def test():
        async with FakeVllm() as one, FakeVllm(form="array") as two:
            one.page = two.page = PAGE
            site = site_of(one, two)
            table = WorkerTable(POLICIES["round_robin"], exact=True)
            for worker in site.workers:
                table.add(worker.name, "m", 1000)
                table.up(worker.name)
            board = LoadBoard(asyncio.get_running_loop().time)
            signals = Signals(site, table, board, root_of)
            await signals.start()
            mine, theirs = root_of("m", "acme"), root_of("m", "other")
            one.cache.store(TOKENS, cache_salt(theirs))
            two.cache.store(TOKENS[:12])
            await one.publish()
            await two.publish()

            def overlap(root):
                ask = Ask(prompt_tokens=32, keys=block_keys(root, TOKENS, 4), block_tokens=4)
                return [view.overlap_blocks for view in table.views(ask, "m")]

            await until(lambda: (overlap(theirs), overlap(mine)) == ([8, 0], [0, 3]))
            await until(lambda: all(board.fresh(name) for name in ("v0", "v1")))
            assert (board.fresh("v0").running, board.fresh("v0").waiting) == (3, 1)
            one.cache.clear()
            await one.publish()
            await until(lambda: overlap(theirs) == [0, 0])
            await signals.close()

    run_async(test)


def test_a_worker_that_joins_is_listened_to_until_it_leaves():
    """Its blocks and its load are known meanwhile; afterwards nobody asks it anything."""

    async def test():
        async with FakeVllm() as one, FakeVllm() as two:
            one.page = two.page = PAGE
            joined = site_of(one, two).worker("v1")
            table = WorkerTable(POLICIES["round_robin"])
            table.add("v0", "m", 1000)
            board = LoadBoard(asyncio.get_running_loop().time)
            signals = Signals(site_of(one), table, board, root_of)
            await signals.start()
            for _ in range(2):
                table.add("v1", "m", 1000, exact=True)
                table.up("v1")
                await signals.join(joined)
                two.cache.store(TOKENS[:12])
                await two.publish()
                keys = block_keys(root_of("m", "acme"), TOKENS, 4)
                ask = Ask(prompt_tokens=32, keys=keys, block_tokens=4)
                await until(lambda ask=ask: table.views(ask, "m")[0].overlap_blocks == 3)
                await until(lambda: board.fresh("v1"))
                await signals.leave("v1")
                table.remove("v1")
                assert board.fresh("v1") is None
                assert set(signals.events) == set(signals.metrics) == {"v0"}
            tasks = [task.get_name() for task in asyncio.all_tasks()]
            assert not [name for name in tasks if "v1" in name]
            await signals.close()

    run_async(test)
