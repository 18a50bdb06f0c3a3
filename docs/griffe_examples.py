"""Shows the docstrings' `Example:` as code: the Google style knows the section by its plural only."""

import re
from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Names the section as griffe's parser expects it, while the site is built."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the heading in one object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
