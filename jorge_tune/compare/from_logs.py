"""Contenders from logs that other programs wrote: each log becomes a run directory, and stays as it is."""

from __future__ import annotations

import glob
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jorge_tune.compare.race import run_path
from jorge_tune.compare.run_directories import Contender, Run, read_run
from jorge_tune.config.ranges import FILE_NAME
from jorge_tune.errors import InputError, RunDirectoryError
from jorge_tune.logs.formats import format_of, reader_of, stdout_log
from jorge_tune.logs.replay import replay, with_format
from jorge_tune.logs.rows import LogError, LogReader
from jorge_tune.logs.tensorboard_log import TensorBoardLog
from jorge_tune.recipe.recipe_files import read_recipe, render_recipe
from jorge_tune.recipe.schema import CustomOptimizerSection, LogFormat, MetricsSection, Recipe
from jorge_tune.records import RECORDS, RunDirectory, of_kind, read_records
from jorge_tune.runs.run_journal import RunJournal
from jorge_tune.untrusted import shown

COPIES = "logs"
_LARGEST_COPY = 2**26  # bytes; what is larger is named and not copied
_SEED = re.compile(r"seed[-_=]?(\d+)", re.IGNORECASE)
_STUB = "# Made from a log, which does not say with which optimizer, rate and batch size it was trained.\n"


@dataclass(frozen=True)
class LoggedRun:
    """One log of a contender: its place, and the seed that its run gets."""

    name: str
    recipe: Recipe | None
    place: Path
    seed: int


def contenders_from_logs(
    arguments: Sequence[str], out: Path, section: MetricsSection | None, *, metric: str | None
) -> list[Contender]:
    """Make a run directory OUT/<name>/seed-<n> of each log, and read them as contenders.

    Args:
        arguments: `NAME=LOG,LOG...`; NAME may be a recipe file. A LOG is a file, a directory, or a pattern with `*`.
        out: where the run directories go. Those that were made from logs before are made anew; others are refused.
        section: the logs' format and columns; None: by their contents and names.
        metric: by which the runs are judged; None: the recipe's, else whatever all logs have.

    Raises:
        InputError: an argument, a log or a directory cannot be used; the logs that were read before it are there.
    """
    logged = [run for argument in arguments for run in _logs_of(argument)]
    names = [run.name for run in logged]
    for name in dict.fromkeys(names):
        seeds = [run.seed for run in logged if run.name == name]
        twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
        if twice is not None:
            raise InputError(f"--from-logs: {name} has two logs of seed {twice}; give them names with different seeds")

    contenders: dict[str, list[Run]] = {}
    for run in logged:
        contenders.setdefault(run.name, []).append(_as_run(run, out, section, metric))
    made = []
    for name, runs in contenders.items():
        runs.sort(key=lambda run: run.seed)
        made.append(Contender(name, runs[0].recipe, tuple(runs)))
    return made


def _logs_of(argument: str) -> list[LoggedRun]:
    """The logs that an argument names."""
    left, equals, right = argument.partition("=")
    if not equals or not left or not right:
        raise InputError(f"--from-logs: must be NAME=LOG or NAME=LOG,LOG..., got {shown(argument)}")
    recipe = read_recipe(left) if Path(left).is_file() else None
    name = left if recipe is None else recipe.name
    if not FILE_NAME.holds(name):
        raise InputError(f"--from-logs: the name must be {FILE_NAME.words}, got {shown(name)}")
    places = [place for piece in right.split(",") for place in _places(piece)]
    seeds = [_seed_of(place) for place in places]
    if None in seeds or len(set(seeds)) < len(seeds):
        seeds = list(range(len(places)))
    return [LoggedRun(name, recipe, place, seed or 0) for place, seed in zip(places, seeds, strict=True)]


def _places(piece: str) -> list[Path]:
    """The logs of one piece: a pattern's matches, a directory's subdirectories by seed, else the piece itself."""
    matches = sorted(glob.glob(piece, recursive=True)) if glob.has_magic(piece) else [piece]
    if not matches:
        raise InputError(f"--from-logs: nothing matches {shown(piece)}")
    places: list[Path] = []
    for match in map(Path, matches):
        by_seed = sorted(path for path in match.iterdir() if _SEED.search(path.name)) if match.is_dir() else []
        places += by_seed if by_seed and not (match / RECORDS).exists() else [match]
    return places


def _seed_of(place: Path) -> int | None:
    """The seed in a log's path, the last one where there are several; None where there is none."""
    found = _SEED.findall(str(place))
    return int(found[-1]) if found else None


def _as_run(logged: LoggedRun, out: Path, section: MetricsSection | None, metric: str | None) -> Run:
    if (logged.place / RECORDS).exists():
        return read_run(logged.place)  # it is a run directory already
    reader, kind = _reader(logged.place, section)
    directory = RunDirectory(run_path(out, logged.name, logged.seed))
    _make_way(directory)
    wanted = metric or (logged.recipe.target.metric if logged.recipe and logged.recipe.target else None)
    columns = with_format(section or MetricsSection(), kind)
    try:
        with RunJournal(directory) as journal:
            found = replay(journal, reader, columns, seed=logged.seed, about=logged.name, metric=wanted)
            for note in found.notes:
                journal.say(note)
            at, diverged = found.course.moment, found.course.diverged
            journal.end(at, "diverged" if diverged else "finished", diverged or f"read from {logged.place}")
    except LogError:
        shutil.rmtree(directory.root)
        raise
    recipe = replace(logged.recipe, seed=logged.seed) if logged.recipe else _stub(logged, at.epoch)
    directory.recipe.write_text(("" if logged.recipe else _STUB) + render_recipe(recipe))
    _copy(Path(reader.source()) if logged.place.is_dir() else logged.place, directory)
    run = read_run(directory.root)
    return replace(run, notes=(*run.notes, *(f"{logged.place}: {note}" for note in found.notes)))


def _reader(place: Path, section: MetricsSection | None) -> tuple[LogReader, LogFormat]:
    """The reader of a log, and its format: the one that is asked for, else by its contents."""
    if section is not None and section.from_ == "stdout":
        reader = stdout_log(section, str(place))
        try:
            reader.feed(place.read_text(errors="replace"))
        except OSError as error:
            raise LogError(f"{place}: cannot be read ({error.strerror})") from error
        return reader, "stdout"
    asked = None if section is None or section.from_ == "report" else section.from_
    if asked is not None and place.is_file():
        kind: LogFormat = asked
        file = place
    else:
        kind, file = format_of(place)
        if asked not in (None, kind):
            raise LogError(f"{place}: holds a log of format {kind}, and not of {asked}; name its file")
    return (TensorBoardLog(file) if kind == "tensorboard" else reader_of(kind, lambda: file, str(file))), kind


def _make_way(directory: RunDirectory) -> None:
    """Make an empty run directory; one that was made from a log before is made anew.

    Raises:
        RunDirectoryError: something else is there.
    """
    root = directory.root
    if root.exists():
        if not _is_of_a_log(directory):
            raise RunDirectoryError(f"{root}: is there already, and not made from a log; choose another directory")
        shutil.rmtree(root)
    try:
        root.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{root}: the run directory cannot be written ({error.strerror})") from error


def _is_of_a_log(directory: RunDirectory) -> bool:
    """Whether a directory was made from a log, or begun to be."""
    if not any(path.name != directory.log.name or path.stat().st_size for path in directory.root.iterdir()):
        return True
    try:
        starts = list(of_kind(read_records(directory.records), "start"))
    except RunDirectoryError:
        return False
    return bool(starts) and "log" in starts[0]


def _stub(logged: LoggedRun, epoch: float) -> Recipe:
    """A recipe that says as much as a log does: a name and a length."""
    return Recipe(
        name=logged.name,
        optimizer=CustomOptimizerSection(name="unknown:Unknown", lr=1.0),
        epochs=max(1, round(epoch)),
        batch_size=1,
        seed=logged.seed,
    )


def _copy(log: Path, directory: RunDirectory) -> None:
    """Keep the log beside what was read of it, if it is one file and not large."""
    if log.is_file() and log.stat().st_size <= _LARGEST_COPY:
        (directory.root / COPIES).mkdir()
        shutil.copyfile(os.path.realpath(log), directory.root / COPIES / log.name)
