"""`starloom kv`: nodes of the KV pool: run one, ask them, look into placement, make keys."""

import json as jsonlib
import logging
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from starloom.cli import show
from starloom.kv import KEY_BYTES, POLICIES, KvError, SlotClass
from starloom.kv.remote import (
    Node,
    NodeAddress,
    NodeStat,
    RemotePool,
    Secret,
    Tenants,
    client_context,
    parse,
    serve_node,
    server_context,
)
from starloom.kv.remote.auth import OPEN_SECRET, tenant_line, write_private
from starloom.kv.ssd import SsdTier
from starloom.serve.stack.children import pool_slots, ssd_slots
from starloom.site import KvNode, KvPool, Site

app = typer.Typer(help="Nodes of the KV pool.", no_args_is_help=True)
_TIMEOUT_S = 2.0
_log = logging.getLogger("starloom.kv")

SiteFile = Annotated[Path | None, typer.Argument(help="A site file that names `pool.nodes`.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Nodes = Annotated[
    list[str] | None, typer.Option("--node", metavar="NAME=ADDRESS[*WEIGHT]", help="A node.")
]
TenantName = Annotated[str | None, typer.Option("--tenant", help="Who asks.")]
KeyFile = Annotated[Path | None, typer.Option("--key-file", help="That tenant's key.")]
Ca = Annotated[Path | None, typer.Option("--ca", help="What signs certificates of tls:// nodes.")]


class _Usage(KvError):
    """What was asked for on the command line does not go together."""


@app.command("serve")
def serve(
    file: SiteFile = None,
    name: Annotated[str, typer.Option("--name", help="Which of the site's nodes.")] = "node",
    listen: Annotated[
        list[str] | None, typer.Option(help="tcp://HOST:PORT, tls://HOST:PORT or unix:///PATH.")
    ] = None,
    slots: Annotated[
        list[str] | None, typer.Option(metavar="BYTESxCOUNT", help="A slot class; repeat it.")
    ] = None,
    tenants: Annotated[Path | None, typer.Option(help="Who may ask, a line a key.")] = None,
    cert: Annotated[Path | None, typer.Option(help="Certificate chain for tls://.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its private key.")] = None,
    ssd: Annotated[Path | None, typer.Option(help="A folder for the SSD tier.")] = None,
    ssd_slots_: Annotated[
        list[str] | None, typer.Option("--ssd-slots", metavar="BYTESxCOUNT", help="On disk.")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="/metrics, /health, /stat on loopback; 0: any.")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help=f"What goes first: {', '.join(sorted(POLICIES))}.")
    ] = None,
    json: Json = False,
) -> None:
    """Run a node until Ctrl-C: one of a site file, or one that options describe.

    Options win over the file. Clients hear of its end before it comes.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    memory: dict[int, int] = {}
    disk: dict[int, int] = {}
    if file is not None:
        site, pool, noun = _named(file, name)
        memory, disk = _sized(site, pool, noun)
        listen = listen or noun.listen or [noun.address]
        tenants = tenants or _path(site.base, pool.tenants_file)
        cert = cert or _path(site.base, pool.tls.cert)
        key = key or _path(site.base, pool.tls.key)
        ssd = ssd or _path(site.base, noun.ssd.path if noun.ssd else None)
        metrics_port = noun.metrics_port if metrics_port is None else metrics_port
        policy = policy or pool.policy
    try:
        classes = _classes(slots, memory, "--slots BYTESxCOUNT")
        below = _classes(ssd_slots_, disk, "--ssd-slots BYTESxCOUNT") if ssd else []
        tier, lost = _ssd(ssd, below)
        node = Node(
            name,
            [parse(each) for each in listen or []],
            classes,
            tenants=Tenants(tenants) if tenants else None,
            tls=server_context(cert, key) if cert and key else None,
            policy=POLICIES[policy or "lru"],
            ssd=tier,
            ssd_lost=lost,
            pages_port=metrics_port,
        )
    except (OSError, ValueError, KeyError) as error:
        raise _Usage(f"the node cannot start: {error}") from error
    if json:
        line = {"name": name, "endpoints": list(map(str, node.endpoints))}
        told = jsonlib.dumps({**line, "metrics_port": node.pages_port})
        print(told, flush=True)  # noqa: T201 - stdout is the interface
    serve_node(node)


@app.command("stat")
def stat(
    file: SiteFile = None,
    nodes: Nodes = None,
    tenant: TenantName = None,
    key_file: KeyFile = None,
    ca: Ca = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Ask the node on this machine, as its operator.")
    ] = None,
    json: Json = False,
) -> None:
    """Show what nodes tell: a tenant sees its own counters, an operator all of them."""
    if metrics_port is not None:
        rows: dict[str, Any] = {"": _operator(metrics_port)}
    else:
        with closing(_client(file, nodes, tenant, key_file, ca)) as pool:
            rows = pool.stats()
    found = {
        (each.name if isinstance(each, NodeStat) else name): each for name, each in rows.items()
    }
    if json:
        show.as_json(msgspec.to_builtins(found))
        return
    counters = ("memory_hit_blocks", "ssd_hit_blocks", "missed_blocks", "put_blocks")
    columns = ("node", "state", "uptime_s", *counters, "never_read_blocks")
    table: list[list[object]] = []
    for name, each in found.items():
        if not isinstance(each, NodeStat):
            table.append([name, each, "", "", "", "", "", ""])
            continue
        mine = [getattr(each.tenant, field) for field in (*counters, "never_read_blocks")]
        state = f"{each.state}: {each.why}" if each.why else each.state
        table.append([name, state, round(each.uptime_s), *mine])
    show.table(columns, table)


@app.command("inspect")
def inspect(
    file: SiteFile = None,
    nodes: Nodes = None,
    tenant: TenantName = None,
    key_file: KeyFile = None,
    ca: Ca = None,
    keys: Annotated[
        list[str] | None, typer.Option("--key", metavar="HEX", help="A block's key; repeat it.")
    ] = None,
    json: Json = False,
) -> None:
    """Show nodes as this host sees them, and where blocks live and whether they are there."""
    wanted = [_hex(key) for key in keys or []]
    with closing(_client(file, nodes, tenant, key_file, ca)) as pool:
        pool.beat_once()
        seen = pool.nodes()
        placed = [(key.hex(), pool.ranking(key), _held(pool, key)) for key in wanted]
    if json:
        blocks = [dict(zip(("key", "ranking", "bytes"), each, strict=True)) for each in placed]
        show.as_json({"nodes": msgspec.to_builtins(seen), "blocks": blocks})
        return
    columns = ("node", "address", "weight", "up", "rtt_ms", "why")
    show.table(
        columns, [[it.name, it.address, it.weight, it.up, 1e3 * it.rtt_s, it.why] for it in seen]
    )
    if placed:
        typer.echo()
        rows = [[key, " > ".join(ranking), held or "none"] for key, ranking, held in placed]
        show.table(("key", "home, and who is next", "bytes held"), rows)


@app.command("key")
def key(
    tenant: Annotated[str, typer.Argument(help="The tenant's name, such as team-a.")],
    out: Annotated[Path, typer.Option(help="The new file for the key, readable by you alone.")],
    json: Json = False,
) -> None:
    """Make a tenant's key, and print the line for the nodes' tenants file: no secret is in it."""
    secret = Secret.new(tenant)
    write_private(out, secret.text() + "\n")
    line = tenant_line(tenant, secret.verifier())
    if json:
        show.as_json({"tenant": tenant, "key_file": str(out), "tenants_line": line})
    else:
        typer.echo(line)


def _client(
    file: Path | None,
    nodes: Sequence[str] | None,
    tenant: str | None,
    key_file: Path | None,
    ca: Path | None,
) -> RemotePool:
    """The nodes that a site file or options name, as a client."""
    nodes_file = None
    try:
        found = [NodeAddress.read(each) for each in nodes or []]
        if file is not None:
            site = Site.load(file)
            pool = site.pool or KvPool(node=site.nodes[0].name)
            found += [NodeAddress(it.name, it.address, it.weight) for it in pool.nodes]
            nodes_file = _path(site.base, pool.nodes_file)
            key_file = key_file or _path(site.base, pool.key_file)
            ca = ca or _path(site.base, pool.tls.ca)
            tenant = tenant or pool.tenant
        if not found and nodes_file is None:
            raise _Usage("no nodes: give a site file with `pool.nodes`, or --node NAME=ADDRESS")
        secret = Secret.read(tenant or "", key_file) if key_file else OPEN_SECRET
        return RemotePool(
            found,
            secret=secret,
            timeout_s=_TIMEOUT_S,
            beat_s=0,
            nodes_file=nodes_file,
            tls=client_context(ca) if ca else None,
        )
    except ValueError as error:
        raise _Usage(str(error)) from error


def _operator(port: int) -> NodeStat:
    """What the node on this machine tells on loopback."""
    url = f"http://127.0.0.1:{port}/stat"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            return msgspec.json.decode(answer.read(), type=NodeStat)
    except (OSError, msgspec.DecodeError) as error:
        raise _Usage(f"{url}: {error}") from error


def _held(pool: RemotePool, key: bytes) -> int | None:
    lengths = pool.lengths([key])
    return lengths[0] if lengths else None


def _hex(text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise _Usage(f"--key {text}: a key has {2 * KEY_BYTES} hex digits")
    return key


def _named(file: Path, name: str) -> tuple[Site, KvPool, KvNode]:
    site = Site.load(file)
    pool = site.pool or KvPool(node=site.nodes[0].name)
    for node in pool.nodes:
        if node.name == name:
            return site, pool, node
    known = ", ".join(node.name for node in pool.nodes) or "none"
    raise _Usage(f"{file}: there is no pool node {name!r} for --name; there are: {known}")


def _sized(site: Site, pool: KvPool, node: KvNode) -> tuple[dict[int, int], dict[int, int]]:
    """Slots in memory and on disk for the blocks of the site's models."""
    mine = pool.model_copy(update={"dram_gib": node.dram_gib, "ssd": node.ssd})
    alone = site.model_copy(update={"pool": mine})
    return pool_slots(alone), ssd_slots(alone)


def _classes(texts: Sequence[str] | None, sized: dict[int, int], option: str) -> list[SlotClass]:
    if texts:
        return [SlotClass.parse(text) for text in texts]
    if not sized:
        raise ValueError(f"no block sizes are known: add {option}, or workers to the site")
    return [SlotClass(size, count) for size, count in sized.items()]


def _ssd(path: Path | None, classes: Sequence[SlotClass]) -> tuple[SsdTier | None, bool]:
    """The SSD tier, and whether there should be one and is not: a disk may fail, a node goes on."""
    if path is None:
        return None, False
    try:
        return SsdTier(path, classes), False
    except OSError as error:
        _log.error("the node runs without its SSD tier: %s: %s", path, error)
        return None, True


def _path(base: Path, name: str | None) -> Path | None:
    return base / name if name else None
