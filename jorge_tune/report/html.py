"""One self-contained page: text, tables and live figures, with plotly's script inside and nothing fetched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jorge_tune import __version__
from jorge_tune.compare.comparison import Comparison
from jorge_tune.compare.curves import AXIS_TITLES
from jorge_tune.compare.verdict import Table, comparison_table, target_sentence, verdict
from jorge_tune.untrusted import escape

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_FIT = """<script>
addEventListener("load", () =>
  document.querySelectorAll(".plotly-graph-div").forEach((figure) => Plotly.Plots.resize(figure)));
</script>"""  # a figure is first drawn while the page is still growing around it
_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #1c1c1c;
       background: #fff; max-width: 1440px; margin: 0 auto; padding: 20px 16px 40px; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; }
h2 { font-size: 1.1rem; margin: 1.8rem 0 .5rem; }
p.lead { color: #444; margin: 0 0 1rem; }
ul { padding-left: 1.2rem; margin: .3rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13.5px; }
th, td { padding: .35rem .55rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }
th { border-bottom: 2px solid #888; font-weight: 600; }
.right { text-align: right; }
.figures { display: grid; grid-template-columns: minmax(0, 1fr); gap: 16px; }
@media (min-width: 900px) { .figures { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
.figure { height: 440px; min-width: 0; overflow: hidden; }
footer { color: #666; font-size: 13px; margin-top: 2rem; }
"""


def comparison_page(comparison: Comparison, title: str) -> str:
    """The whole page of a comparison: verdict, table, both figures, notes."""
    from jorge_tune.report.figures import comparison_figure

    figures = [comparison_figure(comparison, axis) for axis in AXIS_TITLES]
    sections = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(target_sentence(comparison))}</p>',
        "<h2>Verdict</h2>",
        bullets(verdict(comparison).splitlines()),
        "<h2>Table</h2>",
        html_table(comparison_table(comparison)),
        f"<h2>{escape(comparison.metric)} against epoch and against training seconds</h2>",
        figure_grid(figures),
        "<p>Thin lines are seeds, thick ones their median. The first steep part is cut off: double-click a "
        "figure to see all of it. A click on a name hides its lines.</p>",
    ]
    if comparison.notes:
        sections += ["<h2>Notes</h2>", bullets(comparison.notes)]
    return page(title, sections)


def page(title: str, sections: Sequence[str]) -> str:
    """A whole document around HTML sections, with style and plotly's script inside."""
    from plotly.offline import get_plotlyjs

    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>{_STYLE}</style>",
            f"<script>{get_plotlyjs()}</script></head><body>",
            *sections,
            _FIT,
            f"<footer>jorge-tune {escape(__version__)}</footer>",
            "</body></html>\n",
        ]
    )


def figure_grid(figures: Sequence[Figure], *, first: int = 1) -> str:
    """Figures in a grid; `first` numbers the first of them, which must differ between grids of one page."""
    from plotly.io import to_html

    config = {
        "responsive": True,
        "displaylogo": False,
        "displayModeBar": False,
        "doubleClick": "reset+autosize",
    }
    cells = [
        to_html(
            figure,
            config=config,
            include_plotlyjs=False,
            full_html=False,
            default_height="100%",
            div_id=f"figure-{number}",
        )
        for number, figure in enumerate(figures, start=first)
    ]
    return '<div class="figures">' + "".join(f'<div class="figure">{cell}</div>' for cell in cells) + "</div>"


def html_table(table: Table) -> str:
    """A table that scrolls sideways where the page is narrow."""

    def cell(tag: str, heading: str, text: str) -> str:
        flush = ' class="right"' if heading in table.right else ""
        return f"<{tag}{flush}>{escape(text)}</{tag}>"

    head = "".join(cell("th", heading, heading) for heading in table.headings)
    rows = (
        "".join(cell("td", heading, text) for heading, text in zip(table.headings, row, strict=True))
        for row in table.rows
    )
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def bullets(lines: Sequence[str]) -> str:
    """Lines of text as a list."""
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"
