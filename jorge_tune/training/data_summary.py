"""What a run found in its data, and which code of the user's own it runs; a line for people and a record.

`DataSummary` is of images: classes, parts, and what was left out and why. `OwnTaskSummary` is of a task of the user's
own, of which little is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from jorge_tune.errors import shortened
from jorge_tune.image_listing import in_words

_IDENTITY = ("name", "shape", "classes", "parts")  # what decides which images a step sees


class RunSummary(Protocol):
    """What a run's first record holds as `data`."""

    def compared_with(self, earlier: object) -> RunSummary:
        """With a warning if a run began on other data, or with other code.

        Args:
            earlier: what the run's first record holds as `data`; None in older ones.
        """

    def to_json(self) -> dict[str, Any]:
        """Plain data for a run's records."""

    def line(self) -> str:
        """The whole summary in one line, for people."""


@dataclass(frozen=True, kw_only=True)
class PartSummary:
    """One part as the run uses it. `available` images were there; `source` is its name in the data set if another."""

    images: int
    available: int
    classes: int
    lacking: tuple[str, ...] = ()  # classes without an image
    source: str | None = None


@dataclass(frozen=True, kw_only=True)
class DataSummary:
    """A data set as a run uses it. `left_out` counts files by part and reason, `unused` the images of other parts.

    `code` is the digest of the user's own modules, where the recipe names any.
    """

    name: str
    shape: tuple[int, ...]  # channels, height, width
    classes: int
    parts: Mapping[str, PartSummary]
    left_out: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    unused: Mapping[str, int] = field(default_factory=dict)
    remarks: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    code: str | None = None

    def compared_with(self, earlier: object) -> DataSummary:
        """See `RunSummary`."""
        now = self.to_json()
        if not isinstance(earlier, dict):
            return self
        warned = replace(self, warnings=(*self.warnings, *_code_warning(earlier, self.code)))
        return warned if all(earlier.get(key) == now[key] for key in _IDENTITY) else warned._with_other_images(earlier)

    def _with_other_images(self, earlier: Mapping[str, Any]) -> DataSummary:
        held = {name: _images_held(earlier.get("parts"), name) for name in self.parts}
        counts = [f"{name} {images}" for name, images in held.items() if images is not None]
        words = f" (it had {', '.join(counts)} images)" if counts else ""
        return replace(self, warnings=(*self.warnings, f"warning: the data has changed since the run began{words}"))

    def to_json(self) -> dict[str, Any]:
        """Plain data for a run's records; empty counts are left out."""
        parts = {
            name: {"images": part.images, "classes": part.classes}
            | ({"of": part.available} if part.available != part.images else {})
            | ({"source": part.source} if part.source else {})
            for name, part in self.parts.items()
        }
        data: dict[str, Any] = {"name": self.name, "shape": list(self.shape), "classes": self.classes, "parts": parts}
        more = {
            "left_out": {name: dict(counts) for name, counts in self.left_out.items() if counts},
            "unused": dict(self.unused),
            "remarks": dict(self.remarks),
            "code": self.code,
        }
        return data | {key: value for key, value in more.items() if value}

    def line(self) -> str:
        """The whole summary in one line, for people."""
        shape = "x".join(map(str, self.shape))
        parts = ", ".join(_part_in_words(name, part) for name, part in self.parts.items())
        pieces = [f"data: {self.name}, {self.classes} classes, {shape}", f"{parts} images"]
        total: dict[str, int] = {}
        for counts in self.left_out.values():
            for reason, count in counts.items():
                total[reason] = total.get(reason, 0) + count
        if total:
            pieces.append(f"{_plural(sum(total.values()), 'file')} left out: {in_words(total.items())}")
        pieces += [f"{remark} ({count})" for remark, count in self.remarks.items()]
        pieces += [f"{name} ({_plural(count, 'image')}) not used" for name, count in self.unused.items()]
        for name, part in self.parts.items():
            if part.lacking:
                lacking = [label if label.isprintable() else ascii(label) for label in part.lacking]
                pieces.append(f"{name} has no image of {shortened(lacking)}")
        return "; ".join([*pieces, *self.warnings])


@dataclass(frozen=True, kw_only=True)
class OwnTaskSummary:
    """A task of the user's own: its factory, the batches of its parts, and the digest of its code."""

    factory: str
    batches: Mapping[str, int]
    parameters: int
    code: str
    warnings: tuple[str, ...] = ()

    def compared_with(self, earlier: object) -> OwnTaskSummary:
        """See `RunSummary`."""
        warnings = [] if not isinstance(earlier, dict) else _code_warning(earlier, self.code)
        if isinstance(earlier, dict) and earlier.get("batches") != dict(self.batches):
            warnings.append("warning: the numbers of batches have changed since the run began")
        return replace(self, warnings=(*self.warnings, *warnings))

    def to_json(self) -> dict[str, Any]:
        """See `RunSummary`."""
        return {"name": self.factory, "batches": dict(self.batches), "parameters": self.parameters, "code": self.code}

    def line(self) -> str:
        """See `RunSummary`."""
        parts = ", ".join(f"{name} {_plural(count, 'batch', 'es')}" for name, count in self.batches.items())
        return "; ".join(
            [f"task: {self.factory} (code {self.code}), {parts}, {self.parameters} parameters", *self.warnings]
        )


def _code_warning(earlier: Mapping[str, Any], code: str | None) -> list[str]:
    """What to say where the run began with other code of the user's own."""
    if code is None or earlier.get("code") in (None, code):
        return []
    return ["warning: the code that the recipe names has changed since the run began"]


def _plural(count: int, noun: str, ending: str = "s") -> str:
    return f"{count} {noun}{'' if count == 1 else ending}"


def _images_held(parts: object, name: str) -> int | None:
    """The images of one part in a stored record, which may have any form."""
    part = parts.get(name) if isinstance(parts, dict) else None
    images = part.get("images") if isinstance(part, dict) else None
    return images if isinstance(images, int) else None


def _part_in_words(name: str, part: PartSummary) -> str:
    source = f" ({part.source}/)" if part.source else ""
    of = f" of {part.available}" if part.available != part.images else ""
    return f"{name}{source} {part.images}{of}"
