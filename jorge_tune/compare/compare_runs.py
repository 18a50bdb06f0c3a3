"""The comparison of run directories, for programs: what `jorge-tune compare` makes of finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jorge_tune.compare.comparison import Comparison, compare, reference_first
from jorge_tune.compare.run_directories import read_contenders
from jorge_tune.errors import InputError


def compare_runs(
    directories: Sequence[str | Path],
    *,
    metric: str | None = None,
    target: float | None = None,
    reference: str | None = None,
) -> Comparison:
    """Measure the runs in directories against one target, and each recipe's runs against the reference's.

    Nothing is trained, and no code that a recipe names is imported. A damaged run is left out, with a note.

    Args:
        directories: Run directories, or directories that hold some. Runs of one recipe are one contender.
        metric: None takes that of the first recipe's target, else top1, else another score, else the loss.
        target: What to reach; None takes the first recipe's target, else the reference's median final value.
        reference: The name of the recipe that the others are compared with; None takes SGD, else the first one.

    Returns:
        The comparison: `standings` with every run's scores and contests, `target`, `notes`, `to_json()`.
        `jorge_tune.compare.verdict.verdict` puts it into sentences.

    Example:
        >>> found = compare_runs(["runs/sgd", "runs/jorge"])  # doctest: +SKIP
        >>> found.standings[0].scores[0].final  # doctest: +SKIP
        0.97

    Raises:
        InputError: there are no runs, or nothing that can be compared.
    """
    if isinstance(directories, (str, Path)):
        raise InputError(f"directories must be a list of directories, got {str(directories)!r}; put it in brackets")
    damaged: list[str] = []
    contenders, notes = reference_first(read_contenders([*map(Path, directories)], damaged.append), reference)
    found = compare(contenders, metric=metric, target=target)
    return replace(found, notes=(*notes, *damaged, *found.notes))
