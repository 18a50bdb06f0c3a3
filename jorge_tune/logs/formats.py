"""The formats of logs: which reader each has, where its files lie, and which format a file or directory has."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from jorge_tune.errors import shortened
from jorge_tune.files import read_regular_bytes
from jorge_tune.logs.csv_log import CsvLog
from jorge_tune.logs.jsonl_log import JsonLinesLog
from jorge_tune.logs.mmengine_log import MMEngineLog
from jorge_tune.logs.report_log import ReportLog
from jorge_tune.logs.rows import LogError, LogReader
from jorge_tune.logs.stdout_log import StdoutLog
from jorge_tune.logs.tensorboard_log import TensorBoardLog
from jorge_tune.logs.trainer_state_log import TrainerStateLog
from jorge_tune.recipe.checks import patterns_of
from jorge_tune.recipe.schema import LogFormat, MetricsSection
from jorge_tune.records import RECORDS
from jorge_tune.reporting import REPORTS
from jorge_tune.untrusted import parse_json

USUAL_FILES: Final[dict[LogFormat, tuple[str, ...]]] = {
    "trainer_state": ("**/trainer_state.json",),
    "mmengine": ("**/vis_data/scalars.json", "**/scalars.json"),
    "csv": ("**/results.csv", "**/metrics.csv", "**/summary.csv"),
    "jsonl": ("**/*.jsonl",),
    "tensorboard": ("**/events.out.tfevents.*",),
}
"""Where a format's files lie below a run's directory, in the order in which formats are tried."""

COUNTS_DONE: Final = ("trainer_state", "mmengine")
"""Formats whose epochs count those that are done."""

_ONLY: Final[dict[LogFormat, str]] = {"csv": "**/*.csv"}
"""Files of any name, which count where there is but one of them."""

_OURS = frozenset({REPORTS, RECORDS})
_SEARCH_SECONDS = 1.0  # between two searches for a file, and more where a search takes long
_SEARCH_SHARE = 0.005  # of a core
_HEAD_BYTES = 2**16


class NewestFile:
    """The newest file that matches one of some patterns; looked for again now and then, since a new one may come.

    Args:
        patterns: gives patterns of `glob`, absolute.
    """

    def __init__(self, patterns: Callable[[], Sequence[str]]) -> None:
        self._patterns = patterns
        self._found: Path | None = None
        self._again_at = 0.0

    def __call__(self) -> Path | None:
        """The file; None where there is none yet."""
        started = time.monotonic()
        if started >= self._again_at:
            found = newest(self._patterns())
            self._found = self._found if found is None else found
            spent = time.monotonic() - started
            self._again_at = started + max(_SEARCH_SECONDS, spent / _SEARCH_SHARE)
        return self._found


def usual_patterns(root: Path, kind: LogFormat) -> list[str]:
    """Where a format's files lie below a directory."""
    names = USUAL_FILES[kind]
    only = _ONLY.get(kind)
    if only is not None and not _matches([_below(root, name) for name in names]):
        found = _matches([_below(root, only)])
        names = (only,) if len(found) == 1 else names
    return [_below(root, name) for name in names]


def _below(root: Path, pattern: str) -> str:
    return os.path.join(glob.escape(str(root)), pattern)


def _matches(patterns: Sequence[str]) -> list[Path]:
    found = [Path(name) for pattern in patterns for name in glob.glob(pattern, recursive=True)]
    return [path for path in found if path.name not in _OURS and path.is_file()]


def newest(patterns: Sequence[str]) -> Path | None:
    """The file that was changed last, of those that match; our own files do not count."""
    return max(_matches(patterns), key=lambda path: (path.stat().st_mtime_ns, path.name), default=None)


def open_log(section: MetricsSection, run: Path, path: str | None) -> LogReader:
    """The reader of a run's log.

    Args:
        section: names the format.
        run: the run's directory.
        path: the section's path, its placeholders filled in.

    Raises:
        LogError: the format needs a package that is not installed.
    """
    if section.from_ == "report":
        return ReportLog(lambda: run / REPORTS, f"{run / REPORTS}")
    if section.from_ == "stdout":
        return stdout_log(section)
    if section.from_ == "tensorboard":
        return TensorBoardLog(run if path is None else run / path)
    kind, names = section.from_, (path,) if path is not None else USUAL_FILES[section.from_]
    patterns = partial(usual_patterns, run, kind) if path is None else lambda: [_below(run, path)]
    return reader_of(kind, NewestFile(patterns), " or ".join(str(run / name) for name in names))


def reader_of(kind: LogFormat, find: Callable[[], Path | None], expected: str) -> LogReader:
    """The reader of a format whose log is one file at a time."""
    match kind:
        case "trainer_state":
            return TrainerStateLog(find, expected)
        case "mmengine":
            return MMEngineLog(find, expected)
        case "csv":
            return CsvLog(find, expected)
        case _:
            return JsonLinesLog(find, expected)


def stdout_log(section: MetricsSection, name: str = "its output") -> StdoutLog:
    """The reader of what a script prints, or of a file that holds it."""
    named = [section.columns[place] for place in ("epoch", "step", "seconds", "part") if place in section.columns]
    return StdoutLog(patterns_of(section), ("epoch", "step", "seconds", "part", *named), name)


def format_of(place: Path) -> tuple[LogFormat, Path]:
    """The format of a log, and its file; of a directory, the first of `USUAL_FILES` that is there.

    Raises:
        LogError: there is none, or it has none of the formats.
    """
    if place.is_dir():
        for kind in USUAL_FILES:
            file = newest(usual_patterns(place, kind))
            if file is not None:
                return kind, place if kind == "tensorboard" else file
        usual = [pattern.removeprefix("**/") for patterns in USUAL_FILES.values() for pattern in patterns]
        raise LogError(f"{place}: no log is here or below; looked for {shortened(usual)}")
    if not place.exists():
        raise LogError(f"{place}: there is no such file or directory")
    return _format_of_file(place), place


def _format_of_file(path: Path) -> LogFormat:
    if path.name.startswith("events.out.tfevents."):
        return "tensorboard"
    content = read_regular_bytes(path, error=LogError)
    if not content.strip():
        raise LogError(f"{path}: is empty")
    if b"\0" in content[:_HEAD_BYTES]:
        raise LogError(f"{path}: is a binary file, and not a log of a known format")
    first = content.lstrip().split(b"\n", 1)[0]
    if content.lstrip().startswith(b"{"):
        if _is_object(first) and not path.name.endswith("trainer_state.json"):
            return "mmengine" if path.name == "scalars.json" else "jsonl"
        if b'"log_history"' in content:
            return "trainer_state"
    elif any(mark in first for mark in (b",", b";", b"\t")):
        return "csv"
    raise LogError(f"{path}: its format is not known; name it with --log-format, or --log-pattern for printed lines")


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(parse_json(line, allow_nan=True), dict)
    except ValueError:
        return False
