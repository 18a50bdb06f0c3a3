"""Which studies and trials a journal has made: Optuna reads an entry about any other and says nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.storages.journal._storage import JournalOperation


class IssuedIds:
    """The numbers that a journal's entries have given so far; told of each entry once, in the file's order."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}  # of the studies that are there
        self._studies = self._trials = 0  # given so far, those deleted since included

    def complaint(self, log: Mapping[str, Any]) -> str | None:
        """What is wrong with an entry that names a study or a trial which none before it has made, in words."""
        for kind, given in (("study", self._studies), ("trial", self._trials)):
            number = log.get(f"{kind}_id")
            if f"{kind}_id" in log and not (isinstance(number, int) and 0 <= number < given):
                return f"is about {kind} {number!r}, which no line before it makes"
        return None

    def take(self, log: Mapping[str, Any]) -> None:
        """Count what an entry makes, as Optuna does: a second study of a name is none, nor a trial of a deleted one."""
        operation = log["op_code"]
        if operation == JournalOperation.CREATE_STUDY and log["study_name"] not in self._names.values():
            self._names[self._studies] = log["study_name"]
            self._studies += 1
        elif operation == JournalOperation.DELETE_STUDY:
            self._names.pop(log["study_id"], None)
        elif operation == JournalOperation.CREATE_TRIAL and log["study_id"] in self._names:
            self._trials += 1
