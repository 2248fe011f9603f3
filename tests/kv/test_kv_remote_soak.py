"""Hosts, nodes and faults for half a minute: the books balance afterwards."""

import random
import threading
import time
from contextlib import closing

import pytest

from starloom.kv import PoolUnavailable, block_keys, root_key
from starloom.kv.remote import RemotePool
from starloom.kv.ssd import SsdTier

CHAINS = [
    block_keys(root_key(fingerprint="w", block_tokens=1, salt=str(at)), list(range(30)), 1)
    for at in range(40)
]
SECONDS = 30.0


def content(key: bytes) -> bytes:
    """The only bytes that a key may ever give."""
    return (key * 130)[: 1000 + 11 * key[0]]


@pytest.mark.slow
def test_half_a_minute_of_everything(node_thread, remote, tmp_path):
    """Four clients on two nodes, one with a disk, the other stopped and started all the time.

    Never a wrong byte, never a call over its deadline, no pin and no slot lost on either node.
    """
    disk = SsdTier(tmp_path / "ssd", [(4096, 256)])
    steady = node_thread("a", slots="4096x64", ssd=disk)
    shaky = node_thread("b", slots="4096x64")
    addresses = (steady.address, shaky.address)
    wrong: list[object] = []
    slow: list[float] = []
    found = [0]
    end = time.monotonic() + SECONDS

    def work(seed: int) -> None:
        rng = random.Random(seed)
        with closing(RemotePool(addresses, beat_s=0.5, timeout_s=0.5)) as pool:
            while time.monotonic() < end:
                chain = rng.choice(CHAINS)
                part = chain[: rng.randrange(1, 31)]
                began = time.monotonic()
                try:
                    if rng.random() < 0.4:
                        pool.put([(key, content(key)) for key in part])
                    else:
                        with pool.get(part) as lease:
                            got = [bytes(view) for view in lease.views]
                        found[0] += len(got)
                        if got != [content(key) for key in part[: len(got)]]:
                            wrong.append(part[0])
                except PoolUnavailable:
                    pass
                slow.append(time.monotonic() - began)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        time.sleep(0.5)
        shaky.stop()
        shaky = node_thread("b", slots="4096x64")
    for thread in threads:
        thread.join()
    assert not wrong
    assert found[0] > 1000
    assert max(slow) < 2.0
    for node in (steady, shaky):
        until = time.monotonic() + 10
        while node.depot.stat().pinned_blocks and time.monotonic() < until:
            time.sleep(0.05)
        stat = node.depot.stat()
        assert stat.pinned_blocks == 0
        with node.depot._lock:
            assert stat.blocks + node.depot._store.free(0) == 64
    assert remote(*addresses).put([(CHAINS[0][0], content(CHAINS[0][0]))]) in {0, 1}
