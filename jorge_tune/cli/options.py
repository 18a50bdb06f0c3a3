"""Arguments and options that commands share."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jorge_tune.errors import InputError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])

_GPU = "--gpu"
_TAKEN_FOR_CUDA = ("gpu", "nvidia")


def device_options(text: str = "Where to train", default: str | None = "auto") -> Callable[[F], F]:
    """Add `--device NAME` and `--gpu`, which is short for `--device cuda`; the command receives `device`.

    Args:
        text: what is done there.
        default: the device where neither is given; None: what the study says.
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


def complete_recipe(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Shipped names and recipe files that begin so; any file where there is neither."""
    from click.shell_completion import CompletionItem

    from jorge_tune.recipe.recipe_files import shipped_recipes

    names = [name for name in shipped_recipes() if name.startswith(incomplete)]
    folder, _, start = incomplete.rpartition("/")
    with contextlib.suppress(OSError, ValueError):
        here = sorted(path.name for path in Path(folder or ("/" if incomplete.startswith("/") else ".")).iterdir())
        found = [name for name in here if name.startswith(start) and name.endswith((".yaml", ".yml"))]
        names += [incomplete[: len(incomplete) - len(start)] + name for name in found]
    return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="file")]


def _keep_gpu(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    ctx.meta[_GPU] = value
    return value


def _parse_device(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """The device's name; of a GPU it is what torch calls it."""
    given = ctx.get_parameter_source("device") == click.core.ParameterSource.COMMANDLINE
    if value is not None and value.partition(":")[0].lower() in _TAKEN_FOR_CUDA:
        rule = f"must be auto, cpu, cuda or cuda:<number>, got {value!r}"
        raise click.BadParameter(f"{rule}; use cuda, or --gpu, for an NVIDIA GPU", ctx, param)
    if not ctx.meta.get(_GPU):
        return value
    if given and value is not None and not value.startswith("cuda"):
        raise click.UsageError(f"--gpu and --device {value} contradict each other; give one of them", ctx)
    return value if given else "cuda"


def check_plot(plot: Path | None, force: bool, endings: tuple[str, ...] = (".html", ".json")) -> None:
    """Refuse a plot that could not be written in the end.

    Raises:
        InputError: another ending than `endings`, or a file that exists, without `force`.
    """
    if plot is None:
        return
    if plot.suffix not in endings:
        raise InputError(f"--plot: must end in {' or '.join(endings)}, got {str(plot)!r}")
    if plot.exists() and not force:
        raise InputError(f"{plot}: exists already; give another name, or --force to overwrite it")


def share_the_cores() -> None:
    """Let OpenMP's idle threads sleep instead of spin, unless the environment says otherwise.

    Spinning threads take the cores from whatever else runs: on two cores with other work on them, training steps
    of two threads took up to ten times as long. Has no effect once torch is loaded.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
