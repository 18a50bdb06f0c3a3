"""The options that several commands share, and the functions that parse their values."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jorge_tune.config.ranges import LARGEST_SEED
from jorge_tune.errors import InputError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_GPU = "--gpu"
_TAKEN_FOR_CUDA = ("gpu", "nvidia")
_MOST_SEEDS = 1000


def parsed_by(parse: Callable[[str], T]) -> Callable[[click.Context, click.Parameter, str | None], T | None]:
    """A click callback: the option's text as `parse` reads it, None where the option was not given.

    Args:
        parse: Reads the text; raises InputError if the text breaks the option's rule.
    """

    def callback(ctx: click.Context, param: click.Parameter, value: str | None) -> T | None:
        try:
            return None if value is None else parse(value)
        except InputError as error:
            raise click.BadParameter(str(error), ctx, param) from error

    return callback


# What to run.


def recipe_argument(command: F) -> F:
    """Add the argument RECIPE, a file or a shipped name; the command receives it as `recipe`."""
    return click.argument("recipe", shell_complete=complete_recipe)(command)


def set_option(
    text: str = "Replace a value of the recipe.", metavar: str = "KEY=VALUE", *, required: bool = False
) -> Callable[[F], F]:
    """Add `--set KEY=VALUE`, which may be repeated; the command receives the tuple as `assignments`."""
    return click.option(
        "--set", "assignments", multiple=True, required=required, metavar=metavar, help=f"{text} May be repeated."
    )


def seed_option(default: str = "the recipe's") -> Callable[[F], F]:
    """Add `--seed N`; the command receives it as `seed`, None where it was not given."""
    return click.option("--seed", type=click.IntRange(0, LARGEST_SEED), help=f"Seed of the run [default: {default}].")


def seeds_option(default: str) -> Callable[[F], F]:
    """Add `--seeds 0-4`; the command receives the tuple as `seeds`."""
    return click.option(
        "--seeds",
        metavar="SEEDS",
        callback=parsed_by(parse_seeds),
        default=default,
        show_default=True,
        help="Seeds, written as 0-4 or 0,2,7.",
    )


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read `0-4` or `0,2,7-9` as seeds, in the order given.

    Raises:
        InputError: The text is not a list of seeds, names a seed twice, or names too many.
    """
    seeds: list[int] = []
    for piece in text.split(","):
        first, dash, last = piece.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise InputError(f"must be a list of seeds, got {text!r}; write 0-4 or 0,2,7")

        low, high = (_seed(digits) for digits in (first, last or first))
        if high < low or high - low >= _MOST_SEEDS or high > LARGEST_SEED:
            rule = f"must go up, and span at most {_MOST_SEEDS} seeds up to {LARGEST_SEED}"
            raise InputError(f"each range {rule}, got {piece.strip()!r}")
        seeds += range(low, high + 1)
    if len(set(seeds)) < len(seeds):
        raise InputError(f"must name each seed once, got {text!r}")
    return tuple(seeds)


def _seed(digits: str) -> int:
    """The number, or one that is too large; Python refuses to read thousands of digits."""
    return int(digits) if len(digits) <= len(str(LARGEST_SEED)) + 100 else LARGEST_SEED + 1


def target_options(otherwise: str = "see above") -> Callable[[F], F]:
    """Add `--target [METRIC=]VALUE` and `--metric NAME`; the command receives `target` and `metric`.

    Args:
        otherwise: The target where none is given.
    """
    target = click.option(
        "--target",
        metavar="[METRIC=]VALUE",
        help=f"Value that a run should reach, for example top1=0.95 [default: {otherwise}].",
    )
    metric = click.option(
        "--metric", metavar="NAME", help="Metric to compare [default: the target's, else top1, else the loss]."
    )
    return lambda command: target(metric(command))


def parse_target(target: str | None, metric: str | None) -> tuple[str | None, float | None]:
    """Read `top1=0.95` or `0.95` as a metric and a value.

    Raises:
        InputError: The value is not a number, or `--metric` names another metric.
    """
    if target is None:
        return metric, None
    name, equals, number = target.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = float("nan")

    if not abs(value) < float("inf") or (equals and not name.strip()):
        raise InputError(f"--target must be a number or METRIC=NUMBER, got {target!r}; write 0.95 or top1=0.95")
    if name and metric and name.strip() != metric:
        raise InputError(f"--target names {name.strip()!r} but --metric names {metric!r}; give one of them")
    return name.strip() or metric, value


# Where to run.


def device_options(text: str = "Device to train on", default: str | None = "auto") -> Callable[[F], F]:
    """Add `--device NAME` and `--gpu`, which is short for `--device cuda`; the command receives `device`.

    Args:
        text: What the device is for.
        default: The device where neither option is given; None: the study's.
    """
    otherwise = default or "the study's"
    device = click.option(
        "--device",
        metavar="NAME",
        callback=_parse_device,
        default=default,
        help=f"{text}: auto, cpu, cuda or cuda:1 [default: {otherwise}].",
    )
    gpu = click.option(
        _GPU, is_flag=True, is_eager=True, expose_value=False, callback=_keep_gpu, help="The same as --device cuda."
    )
    return lambda command: device(gpu(command))


def _keep_gpu(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    ctx.meta[_GPU] = value
    return value


def _parse_device(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """The device's name, as torch spells it."""
    given = ctx.get_parameter_source("device") == click.core.ParameterSource.COMMANDLINE
    if value is not None and value.partition(":")[0].lower() in _TAKEN_FOR_CUDA:
        rule = f"must be auto, cpu, cuda or cuda:<number>, got {value!r}"
        raise click.BadParameter(f"{rule}; use cuda, or --gpu, for an NVIDIA GPU", ctx, param)
    if not ctx.meta.get(_GPU):
        return value
    if given and value is not None and not value.startswith("cuda"):
        raise click.UsageError(f"--gpu and --device {value} contradict each other; give one of them", ctx)
    return value if given else "cuda"


def threads_option(default: str = "torch's choice", what: str = "CPU threads") -> Callable[[F], F]:
    """Add `--threads N`; the command receives it as `threads`, None where it was not given."""
    return click.option("--threads", type=click.IntRange(min=1), help=f"{what} [default: {default}].")


def workers_option(command: F) -> F:
    """Add `--workers N`; the command receives it as `workers`, 1 where it was not given."""
    text = "Number of runs at the same time, each in its own process."
    return click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help=text)(command)


def download_option(command: F) -> F:
    """Add `--download`; the command receives it as `download`."""
    return click.option("--download", is_flag=True, help="Download a torchvision data set that is missing.")(command)


def logger_option(command: F) -> F:
    """Add `--logger`; the command receives the kinds as `loggers`."""
    option = click.option(
        "--logger",
        "loggers",
        multiple=True,
        callback=_parse_loggers,
        metavar="[csv|tensorboard|wandb]",
        help="Copy each run's records to metrics.csv, TensorBoard or Weights & Biases as well; may be repeated.",
    )
    return option(command)


def _parse_loggers(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        return ()
    from jorge_tune.runs.record_loggers import check_loggers

    return check_loggers(value)


def share_the_cores() -> None:
    """Let OpenMP's idle threads sleep instead of spin, unless the environment says otherwise.

    Spinning threads take the cores from other work: on two busy cores, training steps of two threads took up to ten
    times as long. This has no effect once torch is loaded.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def use_threads(threads: int | None) -> None:
    """Let torch use that many CPU threads; None leaves torch's own choice."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


# What to write.


def out_option(text: str, *, required: bool = False) -> Callable[[F], F]:
    """Add `-o FILE`; the command receives the path as `out`."""
    path = click.Path(path_type=Path, dir_okay=False)
    return click.option("-o", "--out", type=path, metavar="FILE", required=required, help=text)


def force_option(what: str = "files") -> Callable[[F], F]:
    """Add `--force`; the command receives it as `force`."""
    return click.option("--force", is_flag=True, help=f"Overwrite existing {what}.")


def plot_option(endings: tuple[str, ...] = (".html", ".json")) -> Callable[[F], F]:
    """Add `--plot FILE` and `--force`; the command receives `plot` and `force`.

    Args:
        endings: The kinds of files that the command can write.
    """
    kinds = {".html": "all figures (FILE.html)", ".png": "a picture (FILE.png)", ".json": "their numbers (FILE.json)"}
    *first, last = (kinds[ending] for ending in endings)
    text = f"Write {', '.join(first)} or {last}."
    path = click.Path(path_type=Path, dir_okay=False)
    plot = click.option("--plot", type=path, metavar="FILE", help=text)
    return lambda command: plot(force_option("plot files")(command))


def check_plot(plot: Path | None, force: bool, endings: tuple[str, ...] = (".html", ".json")) -> None:
    """Refuse a plot that could not be written, before anything is measured.

    Raises:
        InputError: The file has another ending than `endings`, or it exists and `force` is not set.
    """
    if plot is None:
        return
    if plot.suffix not in endings:
        raise InputError(f"--plot must end in {' or '.join(endings)}, got {str(plot)!r}")
    refuse_existing(plot, force)


def refuse_existing(path: Path, force: bool, option: str = "name") -> None:
    """Raises InputError if the file exists and `force` is not set; `option` is what the user can change instead."""
    if path.exists() and not force:
        raise InputError(f"{path}: exists already; give another {option}, or --force to overwrite it")


def format_option(command: F) -> F:
    """Add `--format table|json` to a command that prints a result; the command receives it as `output_format`."""
    return format_option_for("How to print the result.")(command)


def format_option_for(text: str) -> Callable[[F], F]:
    """Add `--format table|json` with another help text."""
    return click.option(
        "--format",
        "output_format",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help=text,
    )


def complete_recipe(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The shipped names and recipe files that begin with the text; any file where there are none."""
    from click.shell_completion import CompletionItem

    from jorge_tune.recipe.recipe_files import shipped_recipes

    names = [name for name in shipped_recipes() if name.startswith(incomplete)]
    directory, _, start = incomplete.rpartition("/")
    with contextlib.suppress(OSError, ValueError):
        top = "/" if incomplete.startswith("/") else "."
        here = sorted(path.name for path in Path(directory or top).iterdir())
        files = [name for name in here if name.startswith(start) and name.endswith((".yaml", ".yml"))]
        names += [incomplete[: len(incomplete) - len(start)] + name for name in files]
    return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="file")]
