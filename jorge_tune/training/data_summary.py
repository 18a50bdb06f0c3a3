"""What a run found in its data: images, classes, parts, and what was left out and why; a line and a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jorge_tune.errors import shortened
from jorge_tune.image_listing import in_words

_IDENTITY = ("name", "shape", "classes", "parts")  # what decides which images a step sees


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
    """A data set as a run uses it. `left_out` counts files by part and reason, `unused` the images of other parts."""

    name: str
    shape: tuple[int, ...]  # channels, height, width
    classes: int
    parts: Mapping[str, PartSummary]
    left_out: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    unused: Mapping[str, int] = field(default_factory=dict)
    remarks: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def compared_with(self, earlier: object) -> DataSummary:
        """With a warning if a run began on other data.

        Args:
            earlier: what the run's first record holds as `data`; None in older ones.
        """
        now = self.to_json()
        if not isinstance(earlier, dict) or all(earlier.get(key) == now[key] for key in _IDENTITY):
            return self
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


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _images_held(parts: object, name: str) -> int | None:
    """The images of one part in a stored record, which may have any form."""
    part = parts.get(name) if isinstance(parts, dict) else None
    images = part.get("images") if isinstance(part, dict) else None
    return images if isinstance(images, int) else None


def _part_in_words(name: str, part: PartSummary) -> str:
    source = f" ({part.source}/)" if part.source else ""
    of = f" of {part.available}" if part.available != part.images else ""
    return f"{name}{source} {part.images}{of}"
