"""`jorge-tune train`: train one recipe with one seed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jorge_tune.cli.calibration_options import held_by, settled
from jorge_tune.cli.options import (
    device_options,
    download_option,
    format_option,
    logger_option,
    recipe_argument,
    seed_option,
    set_option,
    share_the_cores,
    threads_option,
    use_threads,
)
from jorge_tune.cli.output import clock_time, print_json, print_table, training_progress
from jorge_tune.cli.read_recipe import read_with_overrides
from jorge_tune.errors import EXIT_DIVERGED, EXIT_INTERRUPTED, EXIT_NO_ANSWER

if TYPE_CHECKING:
    from jorge_tune.runs.run_result import RunResult


@click.command()
@recipe_argument
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Run directory to write [default: runs/<name>/seed-<n>].",
)
@click.option("--resume", is_flag=True, help="Resume the run that the run directory holds.")
@set_option()
@seed_option()
@device_options()
@click.option("--max-steps", type=click.IntRange(min=1), help="Stop at this step; --resume continues from there.")
@click.option("--log-every", type=click.IntRange(min=1), default=50, show_default=True, help="Steps between records.")
@threads_option()
@download_option
@logger_option
@format_option
def train_command(
    recipe: str,
    out: Path | None,
    resume: bool,
    assignments: tuple[str, ...],
    seed: int | None,
    device: str,
    max_steps: int | None,
    log_every: int,
    threads: int | None,
    download: bool,
    loggers: tuple[str, ...],
    output_format: str,
) -> int:
    """Train RECIPE, a file or a shipped name, and write a run directory.

    The run directory holds the records, the checkpoint, the environment and the log. Ctrl-C finishes the present step
    and writes a checkpoint; --resume continues at exactly this step. If the recipe says `refresh_interval: auto`, the
    interval is measured first, as calibrate-freq does.

    Exit codes: 3 if the run diverged, 4 if the measurement found no interval, 130 if you interrupted the run.

    \b
    Example:
      jorge-tune train digits/cnn-sgd --seed 1
      jorge-tune train digits/cnn-sgd --set optimizer.lr=0.05 --out runs/half-rate
    """
    wanted = read_with_overrides(recipe, assignments, seed)
    share_the_cores()
    run_directory = out or Path("runs") / wanted.name / f"seed-{wanted.seed}"
    ready = settled(wanted, held_by(run_directory), assignments, device=device, threads=threads)
    if ready is None:
        return EXIT_NO_ANSWER
    from jorge_tune.one_run import is_command, train_any

    if not is_command(ready):
        use_threads(threads)
    with training_progress(ready.name) as progress:
        result = train_any(
            ready,
            run_directory,
            device=device,
            resume=resume,
            max_steps=max_steps,
            log_every=log_every,
            threads=threads,
            progress=progress,
            download=download,
            loggers=loggers,
        )
    _show(result, output_format)
    return _exit_code(result, max_steps)


def _exit_code(result: RunResult, max_steps: int | None) -> int:
    if result.outcome == "diverged":
        return EXIT_DIVERGED
    as_asked = max_steps is not None and result.step >= max_steps
    return EXIT_INTERRUPTED if result.outcome == "interrupted" and not as_asked else 0


def _show(result: RunResult, output_format: str) -> None:
    if output_format == "json":
        print_json(_as_data(result))
        return
    rows: list[tuple[str, str]] = [
        ("outcome", result.outcome + (f": {result.reason}" if result.reason else "")),
        ("steps", str(result.step)),
        ("epochs", f"{result.epoch:g}"),
        ("training time", clock_time(result.train_seconds)),
    ]
    for part, metrics in ((result.part, result.metrics), ("test", result.test_metrics)):
        rows += [(f"{part} {name}", f"{value:.4f}") for name, value in metrics.items()]
    if result.best is not None:
        rows.append(
            (f"best {result.part} {result.best.metric}", f"{result.best.value:.4f} at epoch {result.best.epoch:g}")
        )
    if result.part == "test":
        rows.append(("note", "the data has no validation part, so the test part was read after each epoch"))
    print_table(["", "value"], [*dict(rows).items(), ("run directory", str(result.folder.root))])


def _as_data(result: RunResult) -> dict[str, Any]:
    return {
        "outcome": result.outcome,
        "reason": result.reason,
        "folder": str(result.folder.root),
        "step": result.step,
        "epoch": result.epoch,
        "train_seconds": result.train_seconds,
        "part": result.part,
        "metrics": dict(result.metrics),
        "test_metrics": dict(result.test_metrics),
        "best": None if result.best is None else vars(result.best),
    }
