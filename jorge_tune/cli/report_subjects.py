"""What a report is about, read from where it is stored: run folders, or a study and the runs that can be seen."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jorge_tune.cli.output import tell
from jorge_tune.errors import InputError, JorgeTuneError, shortened
from jorge_tune.files import read_regular_bytes
from jorge_tune.strict_json import parse_json, shown

if TYPE_CHECKING:
    from jorge_tune.measure.compare import Comparison
    from jorge_tune.measure.runs import Contender
    from jorge_tune.reporting.report_parts import Report
    from jorge_tune.tuning.results.compared import Collected
    from jorge_tune.tuning.results.report_data import ShownRuns

BESIDE = ("probe.json", "calibration.json")
_LARGEST_MARKER, _LARGEST_MEASUREMENT = 2**16, 2**26  # bytes


def study_at(folder: Path) -> str | None:
    """The name of the study whose runs a folder holds; None where it is none's.

    Raises:
        InputError: its marker is damaged, or no regular file.
    """
    marker = folder / "study.json"
    try:
        held = _parsed(marker, read_regular_bytes(marker, most=_LARGEST_MARKER)) if folder.is_dir() else None
    except FileNotFoundError:
        return None
    name = held.get("study_name") if isinstance(held, dict) else None
    if folder.is_dir() and not isinstance(name, str):
        raise InputError(f"{marker}: must hold the name of a study, got {shown(name)}")
    return name


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

    damaged: list[str] = []
    contenders, chosen = reference_first(read_contenders(folders, damaged.append), reference)
    metric, value = wanted
    comparison = compare(contenders, metric=metric, target=value)
    places = {run.folder for contender in contenders for run in contender.runs}
    around = sorted({*folders, *places, *(place.parent for place in places)})
    measured = _measured(around, extra, damaged)
    for note in damaged:
        tell(f"{note} (warning)")
    comparison = replace(comparison, notes=(*chosen, *damaged, *comparison.notes), is_side_by_side=is_side_by_side)
    return runs_report(comparison, measured)


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
    from jorge_tune.cli.studies import folders, patience_of, warn_of_password
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
    with reading(address, patience_of(address)) as opened_storage:
        opened = join_study(opened_storage, name)
        if is_comparison(opened.plan):
            wanted = (wanted[0] or opened.plan.objective.metric, wanted[1])
            collected, faults = collect(opened, where(name)), list[str]()
            measured = _measured([where(name)], extra, faults)
            return _of_comparison(name, collected._replace(notes=[*collected.notes, *faults]), wanted, measured)
        if any(value is not None for value in wanted):
            raise InputError("--target and --metric are for runs; a study has its own objective")
        evidence = gather(opened, Recorded(where))
        study, recipes = study_data(opened, evidence, address), recipes_of(opened.plan, evidence.rows)
        shown = run_places(opened, evidence.rows, where)
    comparison, notes = _compared(shown, study)
    measured = _measured([where(name)], extra, notes)
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


def _measured(folders: Sequence[Path], extra: Sequence[Path], notes: list[str]) -> dict[str, object]:
    """What the files hold that were named, or lie beside the runs; the latter's faults are notes."""
    from jorge_tune.reporting.report import measured_sections

    found = {str(path): _read(path) for path in extra}
    for path in [folder / name for folder in folders for name in BESIDE]:
        if not os.path.lexists(path) or str(path) in found:
            continue
        try:
            data = _parsed(path, read_regular_bytes(path, most=_LARGEST_MEASUREMENT))
            measured_sections({str(path): data})
            found[str(path)] = data
        except (InputError, FileNotFoundError) as error:
            notes.append(f"left out: {error}")
    return found


def _read(path: Path) -> object:
    """A file that was named, which may be a link or a pipe."""
    try:
        return _parsed(path, path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _parsed(path: Path, content: bytes) -> object:
    try:
        return parse_json(content)
    except ValueError as error:
        raise InputError(f"{path}: is not JSON that can be read: {error}") from error
