"""The progress of one training on stderr: a live line on a terminal, one plain line per evaluation off it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jorge_tune.cli.output import is_talk_on_terminal, tell
from jorge_tune.texts import visible

if TYPE_CHECKING:
    from jorge_tune.training.journal import Progress

_WIDE = 110  # columns of a terminal that has room for a longer bar


@contextmanager
def training_progress(name: str) -> Iterator[Callable[[Progress], None]]:
    """A callback for `train`; the display lasts as long as the context."""
    if not is_talk_on_terminal():
        yield plain_line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    name = visible(name)
    console = Console(stderr=True)
    whole = Column(no_wrap=True, min_width=len(name))
    columns = (
        TextColumn("{task.description}", markup=False, table_column=whole),
        BarColumn(bar_width=20 if console.width >= _WIDE else 6),
        MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=9)),
        TextColumn("{task.fields[numbers]}", markup=False, table_column=Column(no_wrap=True)),
    )
    with Bar(*columns, console=console, refresh_per_second=4) as bar:
        line = bar.add_task(name, total=None, numbers="")

        def show(progress: Progress) -> None:
            if progress.data:
                console.print(visible(progress.data), markup=False, highlight=False, soft_wrap=True)
            bar.update(line, completed=progress.step, total=progress.total_steps, numbers=visible(numbers_of(progress)))

        yield show


def plain_line(progress: Progress) -> None:
    """One line for the data and for each evaluation, nothing for anything else."""
    if progress.data:
        tell(progress.data)
    if progress.event == "evaluation":
        where = f"step {progress.step}/{progress.total_steps}  epoch {progress.epoch:.2f}"
        tell(f"{where}  {numbers_of(progress)}")


def numbers_of(progress: Progress) -> str:
    """Time left, loss, metrics and throughput, as far as they are known; what matters least comes last."""
    parts = []
    if progress.eta_seconds is not None:
        parts.append(f"ETA {clock_time(progress.eta_seconds)}")
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.part is not None:
        scores = {name: value for name, value in progress.metrics.items() if name != "loss"}
        parts.append(f"{progress.part} " + " ".join(f"{name} {value:.4f}" for name, value in scores.items()))
    if progress.samples_per_second is not None:
        parts.append(f"{progress.samples_per_second:.0f} samples/s")
    return "  ".join(parts)


def clock_time(seconds: float) -> str:
    """`h:mm:ss`, rounded up to a second.

    Example:
        >>> clock_time(61.2)
        '0:01:02'
    """
    whole = -int(-seconds // 1)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
