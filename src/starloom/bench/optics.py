"""`bench optics`: the link engine against GNPy, and against published reaches of hollow-core fibre.

Case `smf10x80`: ten spans of 80 km with 96 channels, without Raman scattering, GNPy's closed form.
`smf10x80-srs` (`smf2x80-srs` with --quick): with it, against GNPy's numerical integral on three
channels. Both engines get one file, which our exporter wrote, and amplifiers of one flat gain.

- `osnr_err_db`, `gsnr_err_db`: the largest difference over the channels that GNPy computed.
- `seconds`: least CPU time of a run through the line on one thread, reading of files apart (20 runs
  each; one of GNPy's integral); `speedup_vs_gnpy`: GNPy's by ours, same run.

Case `reach`: arXiv:2606.23527 gives reaches of 256- and 1024-QAM at 32 GBd, 80 channels, 80 km
spans: 33 and 134 km on SMF, 115 and 786 km on HCF. Its abstract does not give what the ends need.
Assumed: SNR = gap * (M - 1) with a gap of 2.5 dB, noise figure 5 dB, 4 dBm a channel into HCF and
the best power into SMF. The floor of the ends is fitted on SMF's first reach, the interference on
HCF's first; both second reaches are predictions.

- `reach_km` (cases `reach:FIBRE:QAM`), `reach_err_pct` against the paper; `reach` has the worse.
"""

import json
import os
import subprocess
import time
from typing import Any

import numpy as np

from starloom.bench.base import BenchError, Options, Results, Told
from starloom.bench.peers import ROOT
from starloom.optics import Design, Fibre, Link, Mode, catalogue, design, evaluate, to_gnpy
from starloom.optics.base import REFERENCE_GHZ, Transceiver
from starloom.optics.gnpy_write import passive_loss_db

GNPY = ROOT / ".venv-gnpy" / "bin" / "python"
_PEER = ROOT / "src" / "starloom" / "bench" / "optics_gnpy.py"
_GAP_DB = 2.5
_HCF_LAUNCH_DBM = 4.0
_SMF_KM = {1024: 33.0, 256: 134.0}
_HCF_KM = {1024: 115.0, 256: 786.0}
_RUNS = 20


def bench(options: Options, told: Told) -> Results:
    """Run all cases; without `.venv-gnpy` those against GNPy are left out, with a note."""
    results = Results()
    for name, link, method, raman in _cases(quick=options.quick):
        told(name)
        ours_s, made = _timed(link, raman=raman)
        results.add("starloom", name, "osnr_db", float(made.osnr_db.mean()), "dB")
        results.add("starloom", name, "gsnr_db", float(made.gsnr_db.mean()), "dB")
        results.add("starloom", name, "seconds", ours_s, "s")
        if not GNPY.exists():
            continue
        theirs = gnpy(link, method=method, raman=raman, repeats=1 if raman else _RUNS)
        seen = [0, len(theirs["thz"]) // 2 - 1, len(theirs["thz"]) - 1] if raman else slice(None)
        osnr = np.abs(made.osnr_db - np.array(theirs["osnr_db"]))[seen]
        gsnr = np.abs(made.gsnr_db - np.array(theirs["gsnr_db"]))[seen]
        results.add("gnpy", name, "osnr_db", float(np.mean(theirs["osnr_db"])), "dB")
        results.add("gnpy", name, "seconds", theirs["seconds"], "s")
        results.add("starloom", name, "osnr_err_db", float(osnr.max()), "dB")
        results.add("starloom", name, "gsnr_err_db", float(gsnr.max()), "dB")
        results.add("starloom", name, "speedup_vs_gnpy", theirs["seconds"] / ours_s, "x")
    if not GNPY.exists():
        results.notes.append("GNPy is absent: `make .venv-gnpy/ready` installs it")
    told("reach")
    _reach(results)
    return results


def flat_line(spans: int) -> Link:
    """Spans of 80 km of standard fibre, 96 channels at -1 dBm, amplifiers of one flat gain."""
    span = {
        "repeat": spans,
        "connectors_db": (0.5, 0.5),
        "sections": ({"fibre": "smf", "km": 80, "loss_db_per_km": 0.2},),
    }
    asked = {
        "name": f"smf{spans}x80",
        "band": ("c4.8t",),
        "mode": "100g-32gbd",
        "spacing_ghz": 50,
        "launch_dbm": -1,
        "amplifier": "edfa-23",
        "spans": (span,),
        "transceiver": {"tx_osnr_db": 40},
    }
    link = Link.model_validate(asked)
    gain = passive_loss_db(link, link.spans[0])
    return link.changed(spans=(link.spans[0].model_copy(update={"gain_db": gain}),))


def gnpy(
    link: Link,
    *,
    method: str,
    raman: bool,
    repeats: int = 1,
    computed: list[int] | None = None,
) -> dict[str, Any]:
    """What GNPy finds for a link, in its own environment. Raises `BenchError` where it fails.

    With GNPy's integral three channels are computed (first, middle, last), if `computed` is absent.
    """
    topology, equipment = to_gnpy(link)
    if computed is None and method == "ggn_spectrally_separated":
        count = evaluate(link).spectrum.size
        computed = [1, count // 2, count]
    asked = {
        "topology": topology,
        "equipment": equipment,
        "method": method,
        "raman": raman,
        "repeats": repeats,
        "computed_channels": computed,
    }
    done = subprocess.run(
        [str(GNPY), str(_PEER)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        timeout=600,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"GNPy failed: {done.stderr.strip()[-300:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _cases(*, quick: bool) -> list[tuple[str, Link, str, bool]]:
    with_raman = 2 if quick else 10
    return [
        ("smf10x80", flat_line(10), "gn_model_analytic", False),
        (f"smf{with_raman}x80-srs", flat_line(with_raman), "ggn_spectrally_separated", True),
    ]


def _timed(link: Link, *, raman: bool) -> tuple[float, Design]:
    best = float("inf")
    for _ in range(_RUNS):
        begun = time.process_time()
        made = evaluate(link, raman_tilt=raman)
        best = min(best, time.process_time() - begun)
    return best, made


def _reach(results: Results) -> None:
    predicted = predicted_reaches()
    published = {"smf": _SMF_KM[256], "hcf": _HCF_KM[256]}
    errors: list[float] = []
    for fibre, km in published.items():
        error = 100 * (predicted[fibre] / km - 1)
        errors.append(abs(error))
        results.add("starloom", f"reach:{fibre}:256qam", "reach_km", predicted[fibre], "km")
        results.add("starloom", f"reach:{fibre}:256qam", "reach_err_pct", error, "%")
    results.add("starloom", "reach", "reach_err_pct", max(errors), "%")
    results.add("starloom", "reach", "fitted_imi_db_per_km", predicted["imi_db_per_km"], "dB/km")
    results.add("starloom", "reach", "fitted_floor_snr_db", predicted["floor_snr_db"], "dB")


def predicted_reaches(gap_db: float = _GAP_DB) -> dict[str, float]:
    """256-QAM's reach on both fibres, from 1024-QAM's; and what was fitted for it."""
    needed = _noise_allowed(1024, gap_db)
    smf = _qam_link("smf", 1024, gap_db, floor=0.0)
    floor = needed - _line_noise(design.lengthened(smf, _SMF_KM[1024]), best=True)
    far = reach_of("smf", 256, gap_db, floor)
    hcf = _qam_link("hcf", 1024, gap_db, floor=0.0, imi_db_per_km=-200.0)
    rest = _line_noise(design.lengthened(hcf, _HCF_KM[1024]), best=False)
    imi_db = float(10 * np.log10((needed - floor - rest) / _HCF_KM[1024]))
    return {
        "smf": far,
        "hcf": reach_of("hcf", 256, gap_db, floor, imi_db),
        "imi_db_per_km": imi_db,
        "floor_snr_db": float(-10 * np.log10(floor)),
    }


def reach_of(
    fibre: str, order: int, gap_db: float, floor: float, imi_db_per_km: float = -60.0
) -> float:
    """Reach of a QAM order, with the best launch on solid fibre."""
    link = _qam_link(fibre, order, gap_db, floor=floor, imi_db_per_km=imi_db_per_km)
    return design.reach_km(link, best_launch=fibre == "smf")


def _noise_allowed(order: int, gap_db: float) -> float:
    """Noise over signal: 1 / (gap (M - 1)), the rule of equal error rates by gap (Forney 1991)."""
    return 1 / (10 ** (gap_db / 10) * (order - 1))


def _line_noise(link: Link, *, best: bool) -> float:
    """Of the worst channel, ends apart."""
    if best:
        link = link.changed(launch_dbm=design.best_launch_dbm(link))
    return float(10 ** (-evaluate(link).snr_db.min() / 10))


def _qam_link(
    fibre: str, order: int, gap_db: float, *, floor: float, imi_db_per_km: float = -60.0
) -> Link:
    """80 channels of 32 GBd at 50 GHz over 80 km spans; ends with one given noise and no other."""
    hollow: Fibre = next(f for f in catalogue().fibres if f.name == "hcf")
    hollow = hollow.model_copy(update={"imi_db_per_km": imi_db_per_km})
    # Converters are the only noise of these ends: 2 * 10^(-(6.02 ENOB + 4.77 - PAPR) / 10).
    enob = 30.0 if floor == 0 else (10 * np.log10(2 / floor) - 4.77) / 6.02
    snr = 1 / (_noise_allowed(order, gap_db) - floor)
    mode = Mode(
        name="qam",
        rate_gbps=400,
        baud_gbd=32,
        slot_ghz=50,
        required_osnr_db=float(10 * np.log10(snr * 32 / REFERENCE_GHZ)),
        source="gap formula",
        verified="no",
    )
    ends = Transceiver(enob_bits=float(enob), papr_db=0, linewidth_khz=0)
    return Link.model_validate(
        {
            "name": "qam",
            "band": ("c4.8t",),
            "mode": "qam",
            "modes": (mode,),
            "channels": 80,
            "launch_dbm": _HCF_LAUNCH_DBM,
            "amplifier": "edfa-23",
            "spans": (design.plain_span(fibre, 80),),
            "fibres": (hollow,),
            "transceiver": ends,
        }
    )
