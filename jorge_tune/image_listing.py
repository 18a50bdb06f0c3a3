"""The image files below a directory of class directories, and every file that is left out, with the reason. No torch.

Training reads these files; a calibration counts them and looks at the first.

The same files count as in torchvision's ImageFolder: those with one of its endings, links followed. But what systems
and editors leave behind (hidden files and directories) does not count, and no link is followed in a circle.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from jorge_tune.errors import InputError

ENDINGS = frozenset((".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))

SMALL_SIDE = 64
"""Images up to this side keep their size; they are shifted, not cropped and resized, and kept in memory."""
_USUAL_SIDE = 224

_LEFT_BEHIND = ("@eaDir", "__MACOSX", "lost+found")  # by Synology, macOS, file systems; the others have a dot
_LONGEST_ENDING = 12
_MOST_LINKS_IN_LINKS = 1000  # met through another link, in one class; directories that link to each other make far more

LeftOut = Counter[str]
"""Files by the reason why they are left out."""


def class_names(folder: Path) -> list[str]:
    """The names of a part's class directories, in order.

    Raises:
        InputError: the directory cannot be read.
    """
    return sorted(e.name for e in _entries(folder) if not _is_hidden(e.name) and _is_folder(e))


def files_beside_classes(folder: Path) -> LeftOut:
    """What lies in a part's directory itself, or in hidden directories there, and so belongs to no class."""
    left_out: LeftOut = Counter()
    for entry in _entries(folder):
        if _is_hidden(entry.name):
            left_out["hidden"] += _count_files(entry)
        elif not _is_folder(entry):
            left_out["outside a class directory" if os.path.isfile(entry.path) else _reason_of_no_file(entry)] += 1
    return left_out


def images_of_class(folder: Path) -> tuple[list[Path], LeftOut]:
    """The image files anywhere below a class directory, sorted by path, and what is left out.

    Raises:
        InputError: a directory cannot be read, or links between directories lead to far too many ways.
    """
    left_out: LeftOut = Counter()
    names: list[tuple[str, ...]] = []
    for name, entry in _walk(folder, left_out):
        ending = os.path.splitext(entry.name)[1].lower()
        if not os.path.isfile(entry.path):
            left_out[_reason_of_no_file(entry)] += 1
        elif ending in ENDINGS:
            names.append(name)
        else:
            left_out[_ending_in_words(ending)] += 1

    return [folder.joinpath(*name) for name in sorted(names)], left_out


def side_from(longest_side: int) -> int:
    """The side that images get if the recipe names no size: a small image's own, else the usual 224."""
    return longest_side if longest_side <= SMALL_SIDE else _USUAL_SIDE


def _walk(folder: Path, left_out: LeftOut) -> Iterator[tuple[tuple[str, ...], os.DirEntry[str]]]:
    """All visible files, with their names from the class directory on; what is hidden or a loop is counted."""
    links_in_links = 0
    pending = [_Way((), (os.path.realpath(folder.parent), os.path.realpath(folder)), False)]
    while pending:
        way = pending.pop()
        for entry in _entries(way.chain[-1]):
            names = (*way.names, entry.name)
            if _is_hidden(entry.name):
                left_out["hidden"] += _count_files(entry)
            elif not _is_folder(entry):
                yield names, entry
            elif not entry.is_symlink():
                pending.append(_Way(names, (*way.chain, entry.path), way.linked))
            else:
                target = os.path.realpath(entry.path)
                if any(_is_within(above, target) for above in way.chain):
                    left_out["link to a directory above it"] += 1
                    continue
                links_in_links += way.linked
                if links_in_links > _MOST_LINKS_IN_LINKS:
                    raise InputError(
                        f"{folder}: links between the directories below it make more than {_MOST_LINKS_IN_LINKS} "
                        "paths; remove some of the links"
                    )
                pending.append(_Way(names, (*way.chain, target), True))


class _Way(NamedTuple):
    """How a directory was reached: its names from the class directory on, and the real paths on the way."""

    names: tuple[str, ...]
    chain: tuple[str, ...]
    linked: bool


def in_words(left_out: Iterable[tuple[str, int]], most: int = 6) -> str:
    """`.gif (5), hidden (2)`, the most frequent first."""
    ranked = sorted(left_out, key=lambda pair: (-pair[1], pair[0]))
    shown = [f"{reason} ({count})" for reason, count in ranked[:most]]
    rest = sum(count for _, count in ranked[most:])
    return ", ".join(shown + ([f"others ({rest})"] if rest else []))


def _entries(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        raise InputError(f"{folder}: the directory cannot be read ({error.strerror}); make it readable") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Links followed; a link in a circle is not a directory (`entry.is_dir` raises there)."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _LEFT_BEHIND


def _is_within(path: str, folder: str) -> bool:
    """Whether `path` is `directory` or below it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _count_files(entry: os.DirEntry[str]) -> int:
    """The files of a hidden directory, as far as it can be read and without following links; 1 for anything else."""
    if not entry.is_dir(follow_symlinks=False):
        return 1
    return sum(len(files) for _, _, files in os.walk(entry.path))


def _reason_of_no_file(entry: os.DirEntry[str]) -> str:
    return "broken link" if entry.is_symlink() and not os.path.exists(entry.path) else "not a regular file"


def _ending_in_words(ending: str) -> str:
    if not ending:
        return "no ending"
    return ending if len(ending) <= _LONGEST_ENDING and ending.isprintable() else "odd ending"
