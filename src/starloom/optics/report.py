"""One self-contained HTML page of tables and pictures: no script, nothing fetched."""

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment
from markupsafe import Markup

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body{font:15px/1.45 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.5rem} h2{font-size:1.1rem;margin-top:2rem;border-bottom:1px solid #ddd}
table{border-collapse:collapse;font-size:.88rem} th,td{padding:.2rem .7rem;text-align:left}
th{border-bottom:1px solid #999} td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
tr:nth-child(even) td{background:#f6f6f6} .wide{overflow-x:auto}
.flag{background:#fff4d6;border-left:4px solid #ccbb44;padding:.4rem .8rem;margin:.4rem 0}
svg{max-width:100%;height:auto} footer{color:#777;font-size:.8rem;margin-top:3rem}
</style></head><body>
<h1>{{ title }}</h1>
{% for line in lead %}<p>{{ line }}</p>{% endfor %}
{% for flag in flags %}<p class="flag">{{ flag }}</p>{% endfor %}
{% for block in blocks %}
<h2>{{ block.heading }}</h2>
{% if block.text %}<p>{{ block.text }}</p>{% endif %}
{% if block.svg %}{{ markup(block.svg) }}{% endif %}
{% if block.columns %}<div class="wide"><table><thead><tr>
{%- for name in block.columns %}<th{% if block.numeric[loop.index0] %} class="n"{% endif %}>
{{- name }}</th>{% endfor %}</tr></thead><tbody>
{% for row in block.rows %}<tr>
{%- for cell in row %}<td{% if block.numeric[loop.index0] %} class="n"{% endif %}>
{{- shown(cell) }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>{% endif %}
{% endfor %}
<footer>{{ foot }}</footer></body></html>
"""


@dataclass(frozen=True, slots=True)
class Block:
    """A heading with words, a picture or a table below it, or all of them."""

    heading: str
    text: str = ""
    svg: str = ""
    """Drawn by us: it goes in as it is."""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[object]] = ()

    @property
    def numeric(self) -> list[bool]:
        """Columns of numbers, which stand to the right."""
        return [
            bool(self.rows) and all(_number(row[at]) for row in self.rows)
            for at in range(len(self.columns))
        ]


def page(
    title: str,
    blocks: Sequence[Block],
    *,
    lead: Sequence[str] = (),
    flags: Sequence[str] = (),
    foot: str = "",
) -> str:
    """The page as text. Everything but pictures is escaped."""
    template = Environment(autoescape=True).from_string(_PAGE)
    return template.render(
        title=title, blocks=blocks, lead=lead, flags=flags, foot=foot, markup=Markup, shown=shown
    )


def shown(cell: object) -> str:
    """A cell as people read it."""
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.4g}"
    return str(cell)


def _number(cell: object) -> bool:
    return cell is None or (isinstance(cell, int | float) and not isinstance(cell, bool))
