"""`python -m starloom.serve.gateway RUN_DIR [NUMBER]`: a gateway of a site, until SIGTERM."""

import logging
import sys
from pathlib import Path

from starloom.process import inherited_listener, watch_lifeline
from starloom.serve.engines import connect
from starloom.serve.gateway.build import create_app
from starloom.serve.gateway.record import RequestLog
from starloom.serve.gateway.server import serve
from starloom.serve.gateway.spans import Spans
from starloom.serve.guard import AuditFile, Guard
from starloom.serve.peers import Bus, Mesh, ValkeyBus
from starloom.serve.rundir import RunDir
from starloom.site import Gateway, Limits, Site


def main(arguments: list[str]) -> int:
    if len(arguments) not in (1, 2):
        print("usage: python -m starloom.serve.gateway RUN_DIR [NUMBER]", file=sys.stderr)  # noqa: T201
        return 2
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs each request's address
    watch_lifeline()
    rundir = RunDir(Path(arguments[0]))
    number = int(arguments[1]) if len(arguments) > 1 else 0
    site = rundir.site()
    gateway = site.gateway.model_copy(update={"limits": share(site.gateway)})
    site = site.model_copy(update={"gateway": gateway})
    app = create_app(
        site,
        connect(site, rundir),
        rundir.keys(),
        guard=Guard.from_site(site) if site.guard.active else None,
        audit=AuditFile(rundir.audit_log(number)),
        log=RequestLog(rundir.request_log(number)),
        buses=buses(site, rundir, number),
        spans=Spans.from_site(site),
        members_file=rundir.members,
        health_file=rundir.health(number),
        leads=number == 0,
    )
    serve(app, site.gateway, inherited_listener())
    return 0


def share(gateway: Gateway) -> Limits:
    """What one of the gateway's processes may hold: together they hold what the site allows."""
    limits, count = gateway.limits, gateway.processes
    return limits.model_copy(
        update={
            "bodies_mib": max(limits.bodies_mib / count, limits.body_mib),
            "connections": -(-limits.connections // count),
            "requests": -(-limits.requests // count),
            "failed_keys_per_min": -(-limits.failed_keys_per_min // count),
        }
    )


def buses(site: Site, rundir: RunDir, number: int) -> list[Bus]:
    """The ways to the other gateways: processes here, and machines that share a server."""
    found: list[Bus] = []
    others = [rundir.gateway_socket(at) for at in range(site.gateway.processes) if at != number]
    if others:
        found.append(Mesh(rundir.gateway_socket(number), others))
    if site.gateway.peers_url is not None:
        found.append(ValkeyBus(site.gateway.peers_url, f"starloom:{site.name}"))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
