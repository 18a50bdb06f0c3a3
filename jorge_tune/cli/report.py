"""`jorge-tune report`: one page of a study, or of runs that race each other; and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jorge_tune.cli.compare import parse_target
from jorge_tune.cli.contenders import reference_option, side_by_side_option
from jorge_tune.cli.output import is_stdout, refuse_json_with_stdout, tell, tell_written, write_out
from jorge_tune.cli.studies import runs_option, storage_option
from jorge_tune.cli.tables import format_option_for, print_json
from jorge_tune.errors import InputError

if TYPE_CHECKING:
    from jorge_tune.reporting.report_parts import Report

_DEFAULT_OUT = Path("report.html")


@click.command()
@click.argument("subjects", metavar="STUDY|RUNS...", nargs=-1, required=True)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Page to write, its JSON twin beside it; - writes the page alone to stdout "
    f"[default: {_DEFAULT_OUT}, unless --format json or --png is given].",
)
@storage_option
@runs_option
@click.option("--target", metavar="[METRIC=]VALUE", help="What runs should reach, e.g. top1=0.9 [default: as compare].")
@click.option("--metric", help="What to measure of runs [default: as compare].")
@side_by_side_option
@reference_option
@click.option(
    "--with",
    "extra",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    metavar="FILE",
    help="What probe, calibrate-freq or bootstrap printed with --format json, to be shown too.",
)
@click.option("--png", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Draw figures as PNG too.")
@click.option("--force", is_flag=True, help="Overwrite existing files.")
@format_option_for("json prints the twin.")
def command(
    subjects: tuple[str, ...],
    out: Path | None,
    storage: str | None,
    runs: Path | None,
    target: str | None,
    metric: str | None,
    side_by_side: bool,
    reference: str | None,
    extra: tuple[Path, ...],
    png: Path | None,
    force: bool,
    output_format: str,
) -> None:
    """Write a self-contained HTML report: of a study, by its name, or of run directories and directories of them.

    The page shows the verdict first; its JSON twin holds every number of it. It is made from what is stored, and
    changes nothing there. A name that is also a directory here is taken as the directory; the directory of a study's
    runs stands for the study. probe.json and calibration.json beside the runs are
    shown too. A comparison that `compare` keeps as a study has the page of its runs. Runs are compared with those of
    SGD, if there are any, else with the first one named, or the first by name in a directory of them; --reference
    names another.

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
    report = _report(subjects, storage, runs, parse_target(target, metric), extra, side_by_side, reference, writes)
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
    from jorge_tune.cli.report_subjects import report_of_runs, report_of_study, study_at

    folders = [Path(subject) for subject in subjects]
    held = study_at(folders[0]) if len(folders) == 1 else None
    is_study = held is not None or (len(folders) == 1 and not folders[0].exists())
    if is_study and reference is not None:
        raise InputError(f"--reference: is for directories of runs, and {subjects[0]} is a study")
    if held is not None and storage is None and runs is None:
        return report_of_study(held, storage, folders[0], wanted, extra, writes)
    if is_study:
        runs = runs or (folders[0] if held else None)
        return report_of_study(held or subjects[0], storage, runs, wanted, extra, writes)
    missing = [subject for subject, folder in zip(subjects, folders, strict=True) if not folder.is_dir()]
    if missing:
        raise InputError(f"{missing[0]}: no folder here; give folders of runs, or one study by its name")
    if storage is not None or runs is not None:
        raise InputError(f"--storage and --runs are for a study, and {subjects[0]} is a folder of runs")
    return report_of_runs(folders, wanted, extra, is_side_by_side=side_by_side, reference=reference)


def _check_out(out: Path | None, force: bool) -> Path | None:
    """The twin's path, None where no twin is written; refuses what could not be written in the end."""
    if out is None or is_stdout(out):
        return None
    if out.suffix != ".html":
        raise InputError(f"--out: must end in .html, got {str(out)!r}")
    twin = out.with_suffix(".json")
    for path in (out, twin):
        if path.exists() and not force:
            raise InputError(f"{path}: exists already; give another name, or --force to overwrite it")
    return twin


def _write(twin: dict[str, Any], out: Path, twin_path: Path | None, force: bool) -> None:
    from jorge_tune.reporting.report_page import report_page

    write_out(out, report_page(twin), force=force, make_folders=True)
    if twin_path is not None:
        write_out(twin_path, json.dumps(twin, indent=1, allow_nan=False) + "\n", force=force)
        tell_written(out, twin_path)


def _draw(twin: dict[str, Any], folder: Path, force: bool) -> None:
    """Every figure that is not empty, or a word why not."""
    from jorge_tune.reporting.figures import write_pngs
    from jorge_tune.reporting.report_page import figure_for_picture
    from jorge_tune.reporting.report_parts import figures_of

    figures = [figure for figure in figures_of(twin) if figure["series"]]
    paths = {figure["key"]: folder / f"{figure['key']}.png" for figure in figures}
    there = next((path for path in paths.values() if path.exists()), None)
    if there is not None and not force:
        raise InputError(f"{there}: exists already; give another --png, or --force to overwrite it")
    missing = write_pngs({paths[figure["key"]]: figure_for_picture(figure) for figure in figures})
    tell(missing or f"wrote {len(figures)} figures to {folder}")
