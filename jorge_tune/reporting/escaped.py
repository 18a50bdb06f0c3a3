"""Text of others in a page: neither markup nor control characters of it mean anything there."""

from __future__ import annotations

import html

from jorge_tune.texts import visible


def escape(text: str) -> str:
    """The text for HTML, its control characters written out."""
    return html.escape(visible(text))


def in_figure(text: str) -> str:
    """The text for plotly, which takes some HTML (links too) in its labels and unescapes it again."""
    return html.escape(visible(text), quote=False)
