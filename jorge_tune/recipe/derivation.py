"""What became of one field of a recipe, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

OURS: Final = "our rule"  # not the paper's


@dataclass(frozen=True)
class Derivation:
    """What became of one field: plain values before and after (None: absent), the reason, and where it comes from."""

    field: str
    before: Any
    after: Any
    rule: str
    formula: str = ""
    source: str = ""

    @property
    def changed(self) -> bool:
        """Whether the value is another one than before."""
        return bool(self.before != self.after)

    def comment(self) -> str:
        """Why, in one line for the recipe file; empty where there is neither formula nor source to give."""
        if self.after is not None and not self.formula and not self.source:
            return ""
        return (self.formula or self.rule) + (f" ({self.source})" if self.source else "")
