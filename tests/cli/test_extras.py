import subprocess
import sys

WITHOUT = (
    "import sys; sys.modules.update(dict.fromkeys(['torch', 'transformers', 'safetensors'])); "
)


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WITHOUT + code], capture_output=True, text=True)


def test_everything_but_the_embedded_engine_imports_without_the_extra():
    """A plain `pip install starloom` has all commands, the gateway, the pool and workers' code."""
    rooms = "starloom.cli.main, starloom.serve.gateway.build, starloom.serve.engines.worker"
    ran = run(f"import {rooms}, starloom.kv.server, starloom.bench; print('ok')")
    assert ran.stdout == "ok\n", ran.stderr


def test_the_embedded_engine_says_what_to_install(tmp_path):
    """Without torch an embedded worker ends with the command that brings it, not with a trace."""
    site = tmp_path / "site.yaml"
    site.write_text(
        "name: t-extra\nnodes: [{name: n}]\nmodels: [{name: loom-s, path: 'package:loom-s'}]\n"
        "workers: [{name: w, node: n, model: loom-s, engine: embedded}]\n"
    )
    ran = run(
        "from pathlib import Path; from starloom.serve.engines.worker import run;"
        "from starloom.serve.rundir import RunDir; from starloom.site import Site;"
        f"d = RunDir(Path({str(tmp_path)!r}) / 'run'); d.create();"
        f"d.write_site(Site.load({str(site)!r})); sys.exit(run(d.path, 'w'))"
    )
    assert ran.returncode == 2
    assert "starloom[engine]" in ran.stderr
    assert "Traceback" not in ran.stderr
