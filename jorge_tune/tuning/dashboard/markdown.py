"""Text in Markdown notes."""

from __future__ import annotations

import re

_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~])")


def plain(text: str) -> str:
    """Text as it is, whatever it means in Markdown, in one line."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))
