"""`python -m starloom.serve.gateway RUN_DIR`: the gateway of a running site, until SIGTERM."""

import logging
import sys
from pathlib import Path

from starloom.process import inherited_listener, watch_lifeline
from starloom.serve.engines import connect
from starloom.serve.gateway.build import create_app
from starloom.serve.gateway.record import RequestLog
from starloom.serve.gateway.server import serve
from starloom.serve.guard import AuditFile, Guard
from starloom.serve.rundir import RunDir


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m starloom.serve.gateway RUN_DIR", file=sys.stderr)  # noqa: T201
        return 2
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs each request's address
    watch_lifeline()
    rundir = RunDir(Path(arguments[0]))
    site = rundir.site()
    app = create_app(
        site,
        connect(site, rundir),
        rundir.keys(),
        guard=Guard.from_site(site) if site.guard.lists else None,
        audit=AuditFile(rundir.audit_log),
        log=RequestLog(rundir.request_log),
    )
    serve(app, site.gateway, inherited_listener())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
