"""What every `--plot` option refuses before any work is done."""

from __future__ import annotations

from pathlib import Path

from jorge_tune.errors import InputError


def check_plot(plot: Path | None, force: bool, endings: tuple[str, ...] = (".html",)) -> None:
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
