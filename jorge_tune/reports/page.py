"""The page of a report, made from its JSON twin alone: one file with plotly's script inside, which loads nothing.

Figures lie in the page as JSON and are drawn by its script when they come into view, in the colours of a light or a
dark page, whichever the reader's system asks for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jorge_tune.reports.draw import PALETTES, drawn, with_colours
from jorge_tune.untrusted import escape

Data = Mapping[str, Any]

_ASSETS = Path(__file__).parent
_LONG_TABLE = 30  # rows, from which on a table scrolls in a box of its own
_WIDE_TABLE = 3  # columns, from which on each row of a shorter table is a card where the page is narrow
_BADGES = {
    "won": "won",
    "lost": "lost",
    "tied": "tied",
    "undecided": "undecided",
    "held": "held",
    "beaten": "did not hold",
}
_SIGNS = {"won": "▲", "lost": "▼", "tied": "=", "undecided": "?", "held": "✓", "beaten": "▼"}


def report_page(twin: Data) -> str:
    """The whole document."""
    sections = [section_html(section) for section in twin["sections"]]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(twin['title'])}</title>",
            f"<style>{_asset('report.css')}</style></head><body>",
            f"<header><h1>{escape(twin['title'])}</h1>",
            f'<p class="lead">{escape(twin["lead"])}</p></header>',
            _verdict(twin),
            _contents(twin),
            "<noscript><p>The figures need JavaScript; the tables do not.</p></noscript>",
            *sections,
            f"<footer>{escape(twin['made_by'])}. The JSON twin of this page holds every number in it.</footer>",
            f"<script>{_plotly_script()}</script>",
            f"<script>const PALETTES = {_in_script(PALETTES)};\n{_asset('report.js')}</script>",
            "</body></html>\n",
        ]
    )


def figure_for_picture(figure: Data) -> Any:
    """One figure as a plotly figure, on white, for a picture file."""
    from plotly.graph_objects import Figure

    found = with_colours(drawn(figure), PALETTES["light"])
    layout = found["layout"] | {
        "template": "none",
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "title": {"text": figure["title"], "x": 0.5, "y": 0.97, "yanchor": "top"},
        "legend": {"orientation": "h", "x": 0, "yref": "container", "y": 0, "yanchor": "bottom"},
        "width": 1000,
        "height": figure["height"] + 100,
        "margin": {"l": 70, "r": 20, "t": 60, "b": 70},
    }
    return Figure({"data": found["data"], "layout": layout})


def _verdict(twin: Data) -> str:
    lines = []
    for sentence in twin["verdict"]:
        word = sentence["outcome"]
        badge = f'<b class="badge {word}">{_SIGNS[word]} {_BADGES[word]}</b> ' if word else ""
        lines.append(f"<li>{badge}{escape(sentence['text'])}</li>")
    body = "".join(lines) or "<li>There are no results to judge yet.</li>"
    return f'<section id="verdict" class="verdict"><h2>Verdict</h2><ul>{body}</ul></section>'


def _contents(twin: Data) -> str:
    links = "".join(f'<a href="#{escape(s["name"])}">{escape(s["title"])}</a>' for s in twin["sections"])
    return f'<nav aria-label="Contents">{links}</nav>'


def section_html(section: Data) -> str:
    """One section of the twin as the page has it."""
    parts = [f'<section id="{escape(section["name"])}"><h2>{escape(section["title"])}</h2>']
    if section["text"]:
        parts.append(f"<p>{escape(section['text'])}</p>")
    if section["lines"]:
        parts.append("<ul>" + "".join(f"<li>{escape(line)}</li>" for line in section["lines"]) + "</ul>")
    if section["figures"]:
        kind = "figures" if len(section["figures"]) > 1 else "figures alone"
        parts.append(f'<div class="{kind}">' + "".join(map(_figure, section["figures"])) + "</div>")
    parts += [_table(table) for table in section["tables"]]
    for listing in section["listings"]:
        parts.append(f"<h3>{escape(listing['title'])}</h3><pre>{escape(listing['text'])}</pre>")
    return "".join([*parts, "</section>"])


def _figure(figure: Data) -> str:
    title, caption = escape(figure["title"]), escape(figure["caption"])
    if not figure["series"]:
        body = f'<p class="empty">Nothing to draw: {escape(figure["empty"])}.</p>'
        return f"<figure><figcaption>{title}</figcaption>{body}</figure>"
    key = escape(figure["key"])
    data = f'<script type="application/json" class="figure-data" data-key="{key}">{_in_script(drawn(figure))}</script>'
    look = f'style="height:{figure["height"]}px" role="img" aria-label="{title}"'
    plot = f'<div class="plot" id="figure-{key}" {look}></div>'
    under = f'<p class="caption">{caption}</p>' if caption else ""
    return f"<figure><figcaption>{title}</figcaption>{plot}{data}{under}</figure>"


def _table(table: Data) -> str:
    """A long table scrolls in a box of its own; where the page is narrow, each row of a wide one becomes a card."""
    if not table["rows"]:
        return ""
    is_long = len(table["rows"]) > _LONG_TABLE
    is_wide = not is_long and len(table["headings"]) >= _WIDE_TABLE
    flush = [' class="right"' if heading in table["right"] else "" for heading in table["headings"]]
    labels = [f' data-label="{escape(heading)}"' if is_wide else "" for heading in table["headings"]]

    head = "".join(f"<th{c} scope=col>{escape(text)}</th>" for c, text in zip(flush, table["headings"], strict=True))
    rows = "".join(
        "<tr>"
        + "".join(f"<td{c}{n}>{escape(text)}</td>" for c, n, text in zip(flush, labels, row, strict=True))
        + "</tr>"
        for row in table["rows"]
    )
    body = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"

    title = f"<h3>{escape(table['title'])}</h3>" if table["title"] else ""
    kind = "scroll long" if is_long else "scroll cards" if is_wide else "scroll"
    note = f'<p class="print-note">All {len(table["rows"])} rows are on the screen page.</p>' if is_long else ""
    return f'{title}<div class="{kind}" tabindex="0">{body}</div>{note}'


def _in_script(data: object) -> str:
    """JSON that no text of the data can end too early."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _plotly_script() -> str:
    from plotly.offline import get_plotlyjs

    script: str = get_plotlyjs()
    return script
