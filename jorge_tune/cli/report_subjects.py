"""What a report is about, read from where it is stored: run folders, or a study and the runs that can be seen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jorge_tune.errors import InputError, JorgeTuneError, shortened

if TYPE_CHECKING:
    from jorge_tune.measure.compare import Comparison, Contender
    from jorge_tune.reporting.report_parts import Report
    from jorge_tune.tuning.results.compared import Collected
    from jorge_tune.tuning.results.report_data import ShownRuns

BESIDE = ("probe.json", "calibration.json")


def study_at(folder: Path) -> str | None:
    """The name of the study whose runs a folder holds; None where it is none's."""
    try:
        held = json.loads((folder / "study.json").read_bytes())
        return str(held["study_name"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def report_of_runs(
    folders: Sequence[Path],
    wanted: tuple[str | None, float | None],
    extra: Sequence[Path],
    *,
    is_side_by_side: bool = False,
    reference: str | None = None,
) -> Report:
    """The report of run folders.

    Args:
        folders: of runs, or of folders of them.
        wanted: metric and target.
        extra: files with further measurements.
        is_side_by_side: they shared a machine while they trained.
        reference: the contender that the others are compared with; None: SGD, else the first.

    Raises:
        InputError: nothing there can be compared; the message says why for each.
    """
    from jorge_tune.measure.compare import compare, read_contenders
    from jorge_tune.measure.reference import reference_first
    from jorge_tune.reporting.report import runs_report

    contenders, chosen = reference_first(read_contenders(folders), reference)
    metric, value = wanted
    comparison = compare(contenders, metric=metric, target=value)
    places = {run.folder for contender in contenders for run in contender.runs}
    around = sorted({*folders, *places, *(place.parent for place in places)})
    notes = (*chosen, *comparison.notes)
    found = replace(comparison, is_side_by_side=is_side_by_side, notes=notes)
    return runs_report(found, _measured(around, extra))


def report_of_study(
    name: str,
    storage: str | None,
    runs: Path | None,
    wanted: tuple[str | None, float | None],
    extra: Sequence[Path],
    writes: Sequence[Path] = (),
) -> Report:
    """The report of a study; a comparison's is that of its runs.

    Args:
        name: of the study.
        storage: as the option says it; None: the environment decides.
        runs: the folder of its runs; None: the default.
        wanted: metric and target of a comparison.
        extra: files with further measurements.
        writes: what will be written, which must not be the storage.

    Raises:
        InputError: the storage cannot be used or holds no such study, a target is given for a search, or none of a
            comparison's runs is seen here.
    """
    from jorge_tune.cli.studies import folders, warn_of_password
    from jorge_tune.reporting.report import study_report
    from jorge_tune.tuning.planning.comparison_plan import is_comparison
    from jorge_tune.tuning.results.compared import collect
    from jorge_tune.tuning.results.confirm import gather
    from jorge_tune.tuning.results.recorded import Recorded
    from jorge_tune.tuning.results.report_data import recipes_of, run_places, study_data
    from jorge_tune.tuning.storages.address import find_address
    from jorge_tune.tuning.storages.own_files import keep_off
    from jorge_tune.tuning.storages.reading import reading
    from jorge_tune.tuning.study import join_study

    address, where = find_address(storage), folders(name, runs)
    warn_of_password(storage, address)
    for path in writes:
        keep_off(address, path)
    with reading(address) as opened_storage:
        opened = join_study(opened_storage, name)
        if is_comparison(opened.plan):
            wanted = (wanted[0] or opened.plan.objective.metric, wanted[1])
            return _of_comparison(name, collect(opened, where(name)), wanted, _measured([where(name)], extra))
        if any(value is not None for value in wanted):
            raise InputError("--target and --metric are for runs; a study has its own objective")
        evidence = gather(opened, Recorded(where))
        study, recipes = study_data(opened, evidence, address), recipes_of(opened.plan, evidence.rows)
        shown = run_places(opened, evidence.rows, where)
    comparison, notes = _compared(shown, study)
    measured = _measured([where(name)], extra)
    return study_report(study, recipes, comparison, whose=shown.whose, notes=notes, measured=measured)


def _of_comparison(
    name: str, collected: Collected, wanted: tuple[str | None, float | None], measured: dict[str, object]
) -> Report:
    from jorge_tune.measure.compare import compare
    from jorge_tune.reporting.report import runs_report

    if not any(contender.runs for contender in collected.contenders):
        raise InputError(f"study {name}: none of its runs can be shown: {shortened(collected.notes)}")
    metric, value = wanted
    comparison = compare(collected.contenders, metric=metric, target=value)
    notes = (*comparison.notes, *collected.notes)
    return runs_report(replace(comparison, notes=notes, is_side_by_side=collected.is_side_by_side), measured)


def _compared(shown: ShownRuns, study: dict[str, Any]) -> tuple[Comparison | None, list[str]]:
    """The runs that this machine sees, and what there is to say about the others."""
    from jorge_tune.measure.compare import Contender, compare
    from jorge_tune.measure.runs import read_run

    notes = list(shown.notes)
    contenders: list[Contender] = []
    for place in shown.places:
        found = []
        for folder in place.folders:
            try:
                found.append(read_run(folder))
            except JorgeTuneError as error:
                notes.append(f"{place.name}: {error}")
        if found:
            contenders.append(Contender(place.name, place.recipe, tuple(found)))
    if not contenders:
        return None, ["No curves: the run folders are not on this machine (give --runs where they are).", *notes[:1]]
    try:
        comparison = compare(contenders, metric=study["metric"], target=study["target"])
        return replace(comparison, is_side_by_side=shown.is_side_by_side), notes
    except InputError as error:
        return None, [f"No curves: {error}", *notes]


def _measured(folders: Sequence[Path], extra: Sequence[Path]) -> dict[str, object]:
    """What the files hold that were named, or lie beside the runs."""
    beside = [folder / name for folder in folders for name in BESIDE]
    return {str(path): _read(path) for path in [*extra, *(path for path in beside if path.is_file())]}


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({error})") from error
