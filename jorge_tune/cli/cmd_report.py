"""`jorge-tune report`: write a page about a study or about runs, and its numbers as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jorge_tune.cli.attach_study import BESIDE
from jorge_tune.cli.cmd_compare import reference_option, side_by_side_option
from jorge_tune.cli.log_options import log_options, read_logs, refuse_log_options
from jorge_tune.cli.options import (
    force_option,
    format_option_for,
    out_option,
    parse_target,
    refuse_existing,
    target_options,
)
from jorge_tune.cli.output import (
    is_stdout,
    print_json,
    refuse_json_with_stdout,
    tell,
    tell_written,
    warn,
    write_out,
)
from jorge_tune.cli.study_options import runs_option, storage_option
from jorge_tune.errors import InputError, JorgeTuneError, shortened
from jorge_tune.files import read_regular_bytes
from jorge_tune.untrusted import parse_json, shown

if TYPE_CHECKING:
    from jorge_tune.compare.comparison import Comparison
    from jorge_tune.compare.run_directories import Contender
    from jorge_tune.reports.parts import Report
    from jorge_tune.study.report_data import CollectedRuns, ShownRuns

_DEFAULT_OUT = Path("report.html")


@click.command()
@click.argument("subjects", metavar="STUDY|RUNS...", nargs=-1, required=True)
@out_option(
    "Page to write, FILE.html; its numbers go to FILE.json. - writes only the page, to stdout "
    f"[default: {_DEFAULT_OUT}, except with --format json or --png]."
)
@storage_option
@runs_option
@target_options("as in compare")
@side_by_side_option
@reference_option
@log_options
@click.option(
    "--with",
    "extra",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    metavar="FILE",
    help="Further results to show: what probe, calibrate-freq or bootstrap printed with --format json.",
)
@click.option(
    "--png", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Directory for the figures as PNG."
)
@force_option()
@format_option_for("json prints the page's numbers.")
def report_command(
    subjects: tuple[str, ...],
    out: Path | None,
    storage: str | None,
    runs: Path | None,
    target: str | None,
    metric: str | None,
    side_by_side: bool,
    reference: str | None,
    from_logs: bool,
    log_format: str | None,
    log_settings: tuple[str, ...],
    extra: tuple[Path, ...],
    png: Path | None,
    force: bool,
    output_format: str,
) -> None:
    """Write a self-contained HTML report of a study or of runs, and all its numbers as JSON.

    Give the name of a study, or run directories, or directories that hold several of them. If a name is also a
    directory, the command reads the directory; a directory of a study's runs means this study. The report shows the
    verdict first. It also shows probe.json and calibration.json, if they are in the directory of the runs. The
    command reads the study and the runs and does not change them.

    Runs are compared with the reference: SGD if it is among them, else the first run directory. --reference chooses
    another one.

    With --from-logs the page is that of logs which other programs wrote, as `compare --from-logs` reads them; --runs
    is where their run directories go.

    \b
    Example:
      jorge-tune report digits -o digits.html
      jorge-tune report runs/cnn-sgd runs/cnn-jorge -o race.html
    """
    refuse_json_with_stdout(out, output_format)
    if out is None and output_format == "table" and png is None:
        out = _DEFAULT_OUT
    twin_path = _check_out(out, force)
    writes = [path for path in (out, twin_path) if path is not None and not is_stdout(path)]
    wanted = parse_target(target, metric)
    if from_logs:
        if storage is not None:
            raise InputError("--from-logs: reads logs, and --storage is for a study")
        made = read_logs(subjects, runs or Path("runs"), log_format, log_settings, wanted[0])
        report = report_of_contenders(made, wanted, extra, is_side_by_side=side_by_side, reference=reference)
    else:
        refuse_log_options(log_format, log_settings)
        report = _report(subjects, storage, runs, wanted, extra, side_by_side, reference, writes)
    twin = report.to_json()
    if out is not None:
        _write(twin, out, twin_path, force)
    if png is not None:
        _draw(twin, png, force)
    if output_format == "json":
        print_json(twin)


def _report(
    subjects: tuple[str, ...],
    storage: str | None,
    runs: Path | None,
    wanted: tuple[str | None, float | None],
    extra: tuple[Path, ...],
    side_by_side: bool,
    reference: str | None,
    writes: Sequence[Path],
) -> Report:

    folders = [Path(subject) for subject in subjects]
    held = study_at(folders[0]) if len(folders) == 1 else None
    is_study = held is not None or (len(folders) == 1 and not folders[0].exists())
    if is_study and reference is not None:
        raise InputError(f"--reference is for run directories, but {subjects[0]} is a study; leave --reference out")
    if held is not None and storage is None and runs is None:
        return report_of_study(held, storage, folders[0], wanted, extra, writes)
    if is_study:
        runs = runs or (folders[0] if held else None)
        return report_of_study(held or subjects[0], storage, runs, wanted, extra, writes)
    if len(folders) == 1 and folders[0].is_file():
        return report_of_file(folders[0], writes)
    missing = [subject for subject, folder in zip(subjects, folders, strict=True) if not folder.is_dir()]
    if missing:
        raise InputError(f"{missing[0]}: is not a directory; give run directories only, or the name of one study")
    if storage is not None or runs is not None:
        raise InputError(
            f"--storage and --runs are for a study, but {subjects[0]} is a directory of runs; leave them out"
        )
    return report_of_runs(folders, wanted, extra, is_side_by_side=side_by_side, reference=reference)


def _check_out(out: Path | None, force: bool) -> Path | None:
    """The path of the JSON file, None if none is written; refuses a page that could not be written."""
    if out is None or is_stdout(out):
        return None
    if out.suffix != ".html":
        raise InputError(f"-o must end in .html, got {str(out)!r}")
    twin = out.with_suffix(".json")
    for path in (out, twin):
        refuse_existing(path, force)
    return twin


def _write(twin: dict[str, Any], out: Path, twin_path: Path | None, force: bool) -> None:
    from jorge_tune.reports.page import report_page

    write_out(out, report_page(twin), force=force, make_folders=True)
    if twin_path is not None:
        write_out(twin_path, json.dumps(twin, indent=1, allow_nan=False) + "\n", force=force)
        tell_written(out, twin_path)


def _draw(twin: dict[str, Any], folder: Path, force: bool) -> None:
    """Write each figure that is not empty as PNG, or print why this is not possible."""
    from jorge_tune.reports.page import figure_for_picture
    from jorge_tune.reports.parts import figures_of
    from jorge_tune.reports.png import write_pngs

    figures = [figure for figure in figures_of(twin) if figure["series"]]
    paths = {figure["key"]: folder / f"{figure['key']}.png" for figure in figures}
    for path in paths.values():
        refuse_existing(path, force, "--png")
    missing = write_pngs({paths[figure["key"]]: figure_for_picture(figure) for figure in figures})
    tell(missing or f"wrote {len(figures)} figures to {folder}")


_LARGEST_MARKER, _LARGEST_MEASUREMENT = 2**16, 2**26  # bytes


def study_at(folder: Path) -> str | None:
    """The name of the study that owns a directory of runs; None if no study owns it.

    Raises:
        InputError: The file study.json is damaged, or is not a regular file.
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


def report_of_file(path: Path, writes: Sequence[Path] = ()) -> Report:
    """The report of a file of measurements: what calibrate-freq or probe printed, or a shadow probe saved.

    Args:
        path: The file.
        writes: What will be written, which must not be the file.

    Raises:
        InputError: the file cannot be read, holds something else, or would be overwritten.
    """
    from jorge_tune.reports.report import measured_report

    if any(other.exists() and other.samefile(path) for other in writes):
        raise InputError(f"{path}: the report would overwrite the file that it is made from; give another --out")

    return measured_report(str(path), _read(path))


def report_of_runs(
    folders: Sequence[Path],
    wanted: tuple[str | None, float | None],
    extra: Sequence[Path],
    *,
    is_side_by_side: bool = False,
    reference: str | None = None,
) -> Report:
    """The report of run directories.

    Args:
        folders: Run directories, or directories that hold several.
        wanted: Metric and target.
        extra: Files with further measurements.
        is_side_by_side: Whether the runs shared one machine at the same time.
        reference: The contender to compare the others with; None: SGD, else the first.

    Raises:
        InputError: No runs can be compared; the message says why.
    """
    from jorge_tune.compare.run_directories import read_contenders

    damaged: list[str] = []
    contenders = read_contenders(folders, damaged.append)
    return report_of_contenders(
        contenders, wanted, extra, folders, damaged, is_side_by_side=is_side_by_side, reference=reference
    )


def report_of_contenders(
    contenders: Sequence[Contender],
    wanted: tuple[str | None, float | None],
    extra: Sequence[Path],
    folders: Sequence[Path] = (),
    damaged: Sequence[str] = (),
    *,
    is_side_by_side: bool = False,
    reference: str | None = None,
) -> Report:
    """The report of contenders whose runs are read; else as `report_of_runs`.

    Args:
        contenders: with their runs.
        wanted: metric and target.
        extra: files with further measurements.
        folders: where measurements may lie beside the runs.
        damaged: what is to be said of runs that were left out.
        is_side_by_side: they shared a machine while they trained.
        reference: the contender that the others are compared with; None: SGD, else the first.

    Raises:
        InputError: nothing there can be compared.
    """
    from jorge_tune.compare.comparison import compare, reference_first
    from jorge_tune.reports.report import runs_report

    damaged = list(damaged)
    contenders, chosen = reference_first(contenders, reference)
    metric, value = wanted
    comparison = compare(contenders, metric=metric, target=value)
    places = {run.folder for contender in contenders for run in contender.runs}
    around = sorted({*folders, *places, *(place.parent for place in places)})
    measured = _measured(around, extra, damaged)
    for note in damaged:
        warn(note)
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
    """The report of a search, or of the runs of a comparison.

    Args:
        name: The study's name.
        storage: The value of `--storage`; None: the environment decides.
        runs: The directory of its runs; None: the default.
        wanted: Metric and target of a comparison.
        extra: Files with further measurements.
        writes: The files that will be written, which must not be the storage.

    Raises:
        InputError: The storage cannot be used or has no such study, a search gets a target, or no run of a comparison
            can be read.
    """
    from jorge_tune.cli.study_options import folders, patience_of, warn_of_password
    from jorge_tune.reports.report import study_report
    from jorge_tune.study.confirm import RecordedValues, gather
    from jorge_tune.study.plan import is_comparison
    from jorge_tune.study.report_data import collect, recipes_of, run_places, study_data
    from jorge_tune.study.storage.address import find_address
    from jorge_tune.study.storage.open import keep_off, reading
    from jorge_tune.study.study import join_study

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
            raise InputError("--target and --metric are for runs, but a search has its own objective; leave them out")
        evidence = gather(opened, RecordedValues(where))
        study, recipes = study_data(opened, evidence, address), recipes_of(opened.plan, evidence.rows)
        shown = run_places(opened, evidence.rows, where)
    comparison, notes = _compared(shown, study)
    measured = _measured([where(name)], extra, notes)
    return study_report(study, recipes, comparison, whose=shown.whose, notes=notes, measured=measured)


def _of_comparison(
    name: str, collected: CollectedRuns, wanted: tuple[str | None, float | None], measured: dict[str, object]
) -> Report:
    from jorge_tune.compare.comparison import compare
    from jorge_tune.reports.report import runs_report

    if not any(contender.runs for contender in collected.contenders):
        raise InputError(f"study {name}: none of its runs can be read: {shortened(collected.notes)}")
    metric, value = wanted
    comparison = compare(collected.contenders, metric=metric, target=value)
    notes = (*comparison.notes, *collected.notes)
    return runs_report(replace(comparison, notes=notes, is_side_by_side=collected.is_side_by_side), measured)


def _compared(shown: ShownRuns, study: dict[str, Any]) -> tuple[Comparison | None, list[str]]:
    """Compare the runs on this machine; notes say what is wrong with the others."""
    from jorge_tune.compare.comparison import compare
    from jorge_tune.compare.run_directories import Contender, read_run

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
        return None, [
            "No curves: the run directories are not on this machine; if they are elsewhere, give --runs.",
            *notes[:1],
        ]
    try:
        comparison = compare(contenders, metric=study["metric"], target=study["target"])
        return replace(comparison, is_side_by_side=shown.is_side_by_side), notes
    except InputError as error:
        return None, [f"No curves: {error}", *notes]


def _measured(folders: Sequence[Path], extra: Sequence[Path], notes: list[str]) -> dict[str, object]:
    """The measurements in the files of --with and in the directories of the runs; a fault in the latter is a note."""
    from jorge_tune.reports.report import measured_sections

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
    """Read a file that the user named, which may be a link or a pipe."""
    try:
        return _parsed(path, path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _parsed(path: Path, content: bytes) -> object:
    try:
        return parse_json(content)
    except ValueError as error:
        raise InputError(f"{path}: must be a JSON file: {error}") from error
