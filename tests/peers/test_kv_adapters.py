"""NIXL's and Mooncake's adapters against the real libraries, in the peers' own environments.

The scripts run our code there (PYTHONPATH), since starloom is not installed in them.
"""

import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.peers
ROOT = Path(__file__).parents[2]

POOL = """
from starloom.kv import SlotClass, block_keys, root_key
from starloom.kv.transport import TransportPool

CLASSES = [SlotClass(1 << 16, 16)]
keys = block_keys(root_key(fingerprint="w", block_tokens=1, salt=""), list(range(40)), 1)
data = [os.urandom(65536 - 17 * at) for at in range(40)]

def check(transport, remote):
    pool = TransportPool(transport, remote, CLASSES, timeout_s=20)
    assert pool.put(list(zip(keys[:12], data))) == 12
    with pool.get(keys[:20]) as lease:
        assert [bytes(view) for view in lease.views] == data[:12]
    assert pool.put(list(zip(keys[20:30], data[20:]))) == 10
    assert pool.longest_prefix(keys[20:40]) == 10
    with pool.get(keys[20:40]) as lease:
        assert [bytes(view) for view in lease.views] == data[20:30]
    assert pool.stat().blocks == 16
    pool.close()
"""

NIXL_FILE = """
import os, sys
from starloom.kv.transport import NixlTransport, Op, wait
{pool}
transport = NixlTransport("POSIX")
size = TransportPool.needed_bytes(CLASSES)
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | {direct})
os.posix_fallocate(fd, 0, size)
remote = transport.register_file(fd, size)
check(transport, remote)
try:
    NixlTransport("NONE")
except ValueError as error:
    assert "POSIX" in str(error)
transport.close()
print("good")
"""

HOLDER = """
import os, sys
from starloom.kv.transport import {kind}
{pool}
import mmap
transport = {kind}({arguments})
area = mmap.mmap(-1, TransportPool.needed_bytes(CLASSES))
print(transport.share(transport.register(area)).hex(), flush=True)
sys.stdin.read()
os._exit(0)
"""

CLIENT = """
import os, subprocess, sys
from starloom.kv.transport import {kind}
{pool}
with subprocess.Popen(
    [sys.executable, "-c", sys.argv[2]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
) as holder:
    shared = next(line for line in holder.stdout if len(line) > 40 and line.strip().isalnum())
    transport = {kind}({arguments})
    try:
        transport.attach(b"garbage")
    except ValueError:
        check(transport, transport.attach(bytes.fromhex(shared.strip())))
        print("good", flush=True)
    holder.kill()
os._exit(0)
"""


def run(environment: str, code: str, *arguments: str) -> None:
    python = ROOT / f".venv-{environment}" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"make .venv-{environment}/ready")
    ran = subprocess.run(
        [str(python), "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "UCX_TLS": "tcp,self,sm"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert "good" in ran.stdout, ran.stderr[-2000:]


@pytest.mark.parametrize("direct", ["0", "os.O_DIRECT"])
def test_nixl_moves_blocks_to_a_file_and_back(tmp_path, direct):
    """The POSIX plugin under a pool: bytes in are bytes out, eviction included."""
    run("nixl", NIXL_FILE.format(pool=POOL, direct=direct), str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("environment", "kind", "arguments"),
    [("nixl", "NixlTransport", '"UCX"'), ("mooncake", "MooncakeTransport", "")],
)
def test_blocks_in_another_process(tmp_path, environment, kind, arguments):
    """UCX and Mooncake's engine over TCP: a pool in memory that another process registered."""
    words = {"kind": kind, "arguments": arguments, "pool": POOL}
    run(environment, CLIENT.format(**words), str(tmp_path), HOLDER.format(**words))
