"""`compare` on the study engine: the same race by worker processes, kept in a storage, open to other machines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jorge_tune.cli.calibration import EXIT_NO_ANSWER
from jorge_tune.cli.contenders import settle
from jorge_tune.cli.output import tell
from jorge_tune.cli.studies import Found, folders, open_address
from jorge_tune.cli.study_end import last_word, watching, why_left
from jorge_tune.errors import JorgeTuneError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

    from jorge_tune.measure.race import Settings
    from jorge_tune.measure.runs import Contender
    from jorge_tune.recipe.schema import Recipe
    from jorge_tune.tuning.results.compared import Collected

_GOES_ON = "the same command takes the race up again"
_LONGEST_NAME = 60  # characters, of a name made from all contenders' names


class Engine(NamedTuple):
    """What the engine's options say; None: its default."""

    workers: int | None
    storage: str | None
    name: str | None
    runs: Path | None

    @property
    def is_wanted(self) -> bool:
        """Whether any of them is given."""
        return any(value is not None for value in self)


class Raced(NamedTuple):
    """The contenders with their runs, and what there is to say about runs that are missing."""

    contenders: list[Contender]
    notes: list[str]
    is_side_by_side: bool = False


def race_as_study(
    entrants: Sequence[Contender],
    seeds: Sequence[int],
    engine: Engine,
    where: Settings,
    assignments: Sequence[str],
    metric: str | None,
) -> Raced | int:
    """Train every contender that has no runs on every seed; an exit code, where that did not come to an end.

    Args:
        entrants: recipes and run folders.
        seeds: to run.
        engine: who works, and where it is kept.
        where: to train.
        assignments: what `--set` gave.
        metric: what is compared; None: as the first recipe has it.

    Raises:
        InputError: another study has the name, a recipe cannot be trained, or the storage cannot be used.
        JorgeTuneError: no run came to its end, or the storage stayed away.
    """
    from jorge_tune.tuning.planning.comparison_plan import comparison_plan
    from jorge_tune.tuning.results.compared import collect, open_comparison
    from jorge_tune.tuning.running import Crew, compare_whole

    name = engine.name or default_name([contender.name for contender in entrants if not contender.runs])
    plan_of = partial(comparison_plan, name, seeds=seeds, metric=metric, device=where.device, threads=where.threads)
    plan_of(_recipes(entrants))  # what is wrong is found before anything is written
    address, storage = open_address(engine.storage, create=True)
    known = _known_recipes(storage, name)
    ready = settle(entrants, assignments, where, lambda contender: known.get(contender.name))
    if ready is None:
        return EXIT_NO_ANSWER
    recipes, places = _recipes(ready), folders(name, engine.runs)
    opened = open_comparison(storage, plan_of(recipes), list(recipes), seeds, places)
    found = Found(address, storage, opened, places)
    _tell_what_is_there(found, len(recipes), seeds)
    crew = Crew(
        workers=engine.workers or 1,
        device=where.device,
        threads=where.threads,
        download=where.download,
        last_word=last_word(_GOES_ON),
    )
    with watching(found) as watch:
        left = compare_whole(opened, address, places, crew, watch)
    broken_off = why_left(left, "the race", _GOES_ON)
    return broken_off or _with_runs(ready, collect(opened, found.folder, seeds))


def default_name(contenders: Sequence[str]) -> str:
    """`sgd-vs-jorge`, or `sgd-vs-5-others` where the names together are long; fit for a folder."""
    text = "-vs-".join(contenders)
    if len(text) > _LONGEST_NAME:
        text = f"{contenders[0][:_LONGEST_NAME]}-vs-{len(contenders) - 1}-others"
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-_") or "comparison"


def _recipes(contenders: Sequence[Contender]) -> dict[str, Recipe]:
    """Those to train, by name."""
    return {contender.name: contender.recipe for contender in contenders if not contender.runs}


def _known_recipes(storage: BaseStorage, name: str) -> dict[str, Recipe]:
    """The recipes of the comparison of that name, if it is there: what was measured once holds."""
    from jorge_tune.tuning.planning.parts import ComparisonSpace
    from jorge_tune.tuning.study import present_study

    present = present_study(storage, name)
    space = None if present is None else present.plan.space
    return space.recipes() if isinstance(space, ComparisonSpace) else {}


def _tell_what_is_there(found: Found, contenders: int, seeds: Sequence[int]) -> None:
    """Say on stderr what an earlier call has done, and what it has left to do."""
    from jorge_tune.tuning.planning.parts import SEED
    from jorge_tune.tuning.results.history import ENDED, rows_of

    rows = [row for row in rows_of(found.opened) if SEED in row.point]
    there = sum(row.state == "complete" and row.point[SEED] in seeds for row in rows)
    if there:
        tell(f"study {found.name}: {there} of {contenders * len(seeds)} runs are there already")
    others = sorted({row.point[SEED] for row in rows if row.state not in ENDED} - {*seeds})
    if others:
        listed = ", ".join(map(str, others))
        tell(f"study {found.name} has runs of other seeds to make, and makes them too: {listed}")


def _with_runs(contenders: Sequence[Contender], collected: Collected) -> Raced:
    runs = {contender.name: contender.runs for contender in collected.contenders}
    raced = [one if one.runs else replace(one, runs=runs.get(one.name, ())) for one in contenders]
    if not any(one.runs for one in raced):
        raise JorgeTuneError("no run has come to its end: " + "; ".join(collected.notes))
    return Raced(raced, collected.notes, collected.is_side_by_side)
