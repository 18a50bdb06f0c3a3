"""A run's records while they are being written: what is new since the last look."""

from __future__ import annotations

import os
from pathlib import Path

from jorge_tune.errors import RunFolderError
from jorge_tune.files import open_regular
from jorge_tune.measure.runs import Evaluation
from jorge_tune.records import Record, RunFolder, parse_record


class RunFollower:
    """Reads a run folder's records as they grow; a folder that is not there yet has none.

    Superseded readings are dropped where a run resumes, as `read_records` does. The readings are those of the part
    that selects: the first part that is ever read, since the test part comes last or alone.
    """

    def __init__(self, folder: Path) -> None:
        self._path = RunFolder(folder).records
        self._offset = self._lines = 0
        self._part: str | None = None
        self.readings: list[Evaluation] = []
        self.furthest = 0  # the largest step of any record, superseded ones too, plus 1; 0: no record
        self.outcome: str | None = None  # of a run that has ended
        self.seed: int | None = None

    def read(self) -> bool:
        """Take in what was appended; whether there was anything.

        Raises:
            RunFolderError: a line is no record.
        """
        try:
            with os.fdopen(open_regular(self._path, error=RunFolderError), "rb") as file:
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise RunFolderError(f"{self._path}: cannot read the records ({error.strerror})") from error
        whole = content.rfind(b"\n") + 1  # a line that is being written is read next time
        for line in content[:whole].split(b"\n")[:-1]:
            self._lines += 1
            self._take(parse_record(line, f"{self._path}:{self._lines}"))
        self._offset += whole
        return whole > 0

    def _take(self, record: Record) -> None:
        kind, step = record["kind"], record["step"]
        self.furthest = max(self.furthest, step + 1)
        self.outcome = record["outcome"] if kind == "end" else None
        if kind == "start":
            self.readings = [reading for reading in self.readings if reading.step <= step]
            self.seed = record["seed"]
        elif kind == "evaluation":
            self._part = self._part or record["part"]
            if record["part"] == self._part:
                place = float(record["epoch"]), float(record["train_seconds"])
                self.readings.append(Evaluation(step, *place, record["metrics"]))
