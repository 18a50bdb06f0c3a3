"""Text in Markdown notes."""

from __future__ import annotations

import re

from jorge_tune.texts import visible

_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~])")


def plain(text: str) -> str:
    """Text as it is, whatever it means in Markdown, in one line, its control characters written out."""
    return _MARKUP.sub(r"\\\1", visible(" ".join(text.split())))
