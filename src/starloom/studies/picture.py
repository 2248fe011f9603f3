"""A study's picture, as an SVG file that is the same for the same figures."""

from pathlib import Path

from starloom.studies.base import Findings, StudyError


def write_svg(path: Path, title: str, findings: Findings) -> None:
    """Draw what the study has to show. Raises `StudyError` without a picture or matplotlib."""
    if findings.draw is None:
        raise StudyError("this study has no picture")
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise StudyError("pictures need matplotlib: pip install 'starloom[plots]'") from None
    with mpl.rc_context({"svg.hashsalt": title, "svg.fonttype": "none"}):
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title)
        findings.draw(axes)
        try:
            figure.savefig(path, format="svg", metadata={"Date": None})
        except OSError as error:
            raise StudyError(f"{path}: cannot be written: {error.strerror}") from error
