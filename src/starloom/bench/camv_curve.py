"""The cost-accuracy curve as a small SVG, from points that a bench measured."""

from collections.abc import Mapping, Sequence

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 720, 420, 60, 40, 20, 50
COLOURS = {"starloom": "#0b6e4f", "conflict_only": "#c1440e", "two_of_three": "#3a5a98"}


def svg(title: str, lines: Mapping[str, Sequence[tuple[float, float]]], level: float) -> str:
    """Accuracy (%) over verifier calls (%); `level` is what the verifier alone reaches."""
    values = [y for line in lines.values() for _, y in line] + [level]
    low, high = int(min(values)) - 1, int(max(values)) + 2

    def at(x: float, y: float) -> str:
        return (
            f"{LEFT + x / 100 * (WIDTH - LEFT - RIGHT):.1f},"
            f"{TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM):.1f}"
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<text x="{LEFT}" y="20" font-size="15">{title}: accuracy (%) over verifier calls (%)'
        "</text>",
    ]
    step = max(1, (high - low) // 8)
    for y in range(low, high + 1, step):
        x1, y1 = at(0, y).split(",")
        x2, _ = at(100, y).split(",")
        parts.append(f'<path d="M{x1} {y1}H{x2}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 30}" y="{float(y1) + 4:.1f}">{y}</text>')
    for x in range(0, 101, 20):
        px, py = at(x, low).split(",")
        parts.append(f'<text x="{float(px) - 8:.1f}" y="{float(py) + 18:.1f}">{x}</text>')
    parts.append(
        f'<polyline points="{at(0, level)} {at(100, level)}" fill="none" stroke="#555" '
        f'stroke-dasharray="6 4"/><text x="{WIDTH - 110}" '
        f'y="{float(at(0, level).split(",")[1]) - 5:.1f}">verify_all</text>'
    )
    for place, (name, line) in enumerate(lines.items()):
        colour = COLOURS.get(name, "#666")
        points = " ".join(at(x, y) for x, y in line)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
            f'<text x="{LEFT + 10 + 130 * place}" y="{HEIGHT - 8}" fill="{colour}">{name}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])
