"""TensorBoard's event files, through the `tensorboard` package, which is an extra."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jorge_tune.logs.rows import LogError, LogRow

_PATTERN = "events.out.tfevents.*"


class TensorBoardLog:
    """The scalars of all event files below a directory, file by file in the order of their names.

    Args:
        root: the directory, or one event file.

    Raises:
        LogError: the package is not installed.
    """

    def __init__(self, root: Path) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise LogError(
                "TensorBoard's event files need the package tensorboard: pip install 'jorge-tune[tensorboard]'"
            )
        self._root = root
        self._loaders: dict[Path, Any] = {}
        self.notes: list[str] = []

    def source(self) -> str:
        """The file that is read, or where it is looked for."""
        return str(self._root)

    def skip(self) -> list[LogRow]:
        """What is there already. Raises as every `LogReader`."""
        return self.read()

    def read(self, *, at_end: bool = False) -> list[LogRow]:
        """The rows since the last call. Raises as every `LogReader`."""
        return [row for path in self._files() for row in self._rows(path)]

    def _files(self) -> list[Path]:
        if self._root.is_file():
            return [self._root]
        return sorted(path for path in self._root.rglob(_PATTERN) if path.is_file() and not path.is_symlink())

    def _rows(self, path: Path) -> Iterator[LogRow]:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
        from tensorboard.util import tensor_util

        if path not in self._loaders:
            self._loaders[path] = EventFileLoader(str(path))
        try:
            for event in self._loaders[path].Load():
                values: dict[str, object] = {}
                for value in event.summary.value if event.HasField("summary") else ():
                    array = tensor_util.make_ndarray(value.tensor) if value.HasField("tensor") else None
                    if array is not None and array.size == 1 and array.dtype.kind in "fiu":
                        values[value.tag] = float(array.item())
                if values:
                    yield LogRow({"step": event.step, **values}, f"{path}: step {event.step}", wall=event.wall_time)
        except Exception as error:  # whatever the package raises at a damaged record
            raise LogError(f"{path}: cannot be read as an event file of TensorBoard ({error})") from error
