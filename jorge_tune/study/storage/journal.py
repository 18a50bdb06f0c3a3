"""Optuna's journal file, with a lock that dies with its holder and a torn last line that is cut off.

The lock is a kernel lock on a second file. Optuna's own lock file remains when its holder is killed, and makes all
others wait for 30 seconds. Programs that write to the same journal through Optuna's own backend do not see our lock;
reading (the dashboard, say) needs no lock.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import os
import threading
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from jorge_tune.errors import InputError
from jorge_tune.study.storage.claims import LEASE, Claim, ClaimedBy, Claims, LeasedTrial, lease_of
from jorge_tune.study.storage.optuna_private import (
    JournalOperation,
    alone_in_journal,
    append_to_journal,
    journal_of,
    replayed_trial,
    replayed_trials,
    trial_id_of,
)
from jorge_tune.study.storage.retry import DamagedFileError, Patience

LOCK_ENDING = ".writing"
_FIRST_BYTES = b'{"op_code":'
_CHUNK = 4096


class FileLock:
    """The kernel's exclusive lock on a file, re-entrant within a thread; freed when its holder dies.

    Args:
        path: the file, made if it is missing and never removed (who waits for a removed file waits alone).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = threading.RLock()
        self._depth = 0
        self._descriptor = -1

    def __enter__(self) -> FileLock:
        self._thread.acquire()
        try:
            if self._depth == 0:
                self._descriptor = _locked(self._path)
            self._depth += 1
        except BaseException:
            self._thread.release()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            os.close(self._descriptor)
        self._thread.release()


def _locked(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise InputError(
                f"{path}: this file system has no locks ({error.strerror}); mount it with them (Lustre: -o flock),"
                " or use PostgreSQL"
            ) from None
        raise
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class JournalFile(JournalFileBackend):
    """Optuna's journal file under our lock.

    Args:
        path: the journal, made if it is missing.
    """

    def __init__(self, path: Path) -> None:
        path = path.resolve()  # under two names it would have two locks
        super().__init__(str(path))
        self._path = path
        self.last_line = 0
        """Number of the line that was read last, from 1."""
        self._issued, self._counted = IssuedIds(), 0  # by that many lines
        self.lock = FileLock(path.with_name(path.name + LOCK_ENDING))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append whole lines and have them on the disk, or change nothing.

        Raises:
            OSError: the disk is full or gone; what had been written of them is cut off again.
            KeyError: one is about a study or trial that is not there, which others would take for damage.
        """
        for log in logs:
            if (complaint := self._issued.complaint(log)) is not None:
                raise KeyError(f"an entry {complaint}")
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with self.lock:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            try:
                end = _end_of_whole_lines(descriptor)
                os.ftruncate(descriptor, end)
                try:
                    _write_all(descriptor, lines, end)
                    os.fsync(descriptor)
                except OSError:
                    os.ftruncate(descriptor, end)
                    raise
            finally:
                os.close(descriptor)

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """The logs from a number on; a last line that is being written, or that its writer left torn, is not read.

        Raises:
            DamagedFileError: a line is no log, with its number.
        """
        number = log_number_from
        try:
            for log in self._logs(number):
                number += 1
                yield log
        except DamagedFileError:  # or another machine's write that has not arrived whole: not so under the lock
            with self.lock:
                yield from self._logs(number)

    def check_end(self) -> None:
        """Look at the end, which `read_logs` takes for a write under way.

        Raises:
            DamagedFileError: it is not what a killed writer leaves, so it must not be cut off.
        """
        with self.lock, self._path.open("rb") as file:
            end = _end_of_whole_lines(file.fileno())
            last = _tail(file.fileno(), end - 1)[0] if end else None
        if last is not None and not _is_entry(last):
            raise DamagedFileError("its last line is not a journal entry")

    def _logs(self, start: int) -> Generator[dict[str, Any], None, None]:
        number = start
        try:
            for log in super().read_logs(start):
                number += 1
                self.last_line = number
                if not isinstance(log, dict) or "op_code" not in log:
                    raise DamagedFileError(f"line {number} is not a journal entry")
                self._count(log, number)
                yield log
        except (ValueError, RecursionError) as error:
            reason = "nested too deep" if isinstance(error, RecursionError) else error
            raise DamagedFileError(f"line {number + 1} is not a journal entry ({reason})") from None

    def _count(self, log: dict[str, Any], number: int) -> None:
        """Check what a line is about, when it is read for the first time."""
        if number != self._counted + 1:
            return
        if (complaint := self._issued.complaint(log)) is not None:
            raise DamagedFileError(f"line {number} {complaint}")
        self._issued.take(log)
        self._counted = number


def _is_entry(line: bytes) -> bool:
    try:
        return "op_code" in json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return False


def _tail(descriptor: int, end: int) -> tuple[bytes, int]:
    """What follows the last line feed before `end`, and where it starts."""
    tail, start = b"", end
    while start > 0 and b"\n" not in tail:
        chunk = min(start, _CHUNK)
        start -= chunk
        tail = os.pread(descriptor, chunk, start) + tail
    tail = tail.rpartition(b"\n")[2]
    return tail, end - len(tail)


def _end_of_whole_lines(descriptor: int) -> int:
    """Where the next line is to start: behind the last whole line, over what a killed writer left of one.

    A write that was torn was never answered, so nothing is lost with it.
    """
    torn, end = _tail(descriptor, os.fstat(descriptor).st_size)
    if torn.strip(b"\0") and not torn.startswith(_FIRST_BYTES[: len(torn)]):
        raise DamagedFileError("the text after its last whole line is not a journal entry")
    return end


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written


class IssuedIds:
    """The ids that a journal's entries have issued so far; `take` is called once per entry, in the file's order."""

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


class JournalClaims(Claims[None]):
    """`Claims` of one study in a journal file.

    Args:
        storage: Optuna's own storage, over a `JournalFile`.
        study_id: the study.
        patience: does each step again if the disk was gone meanwhile.
    """

    def __init__(self, storage: JournalStorage, study_id: int, patience: Patience) -> None:
        super().__init__(study_id, patience)
        file = journal_of(storage)
        assert isinstance(file, JournalFile)
        self._storage, self._file = storage, file

    def running(self) -> list[ClaimedBy]:
        """See `Claims.running`."""
        trials = self.patience.run(
            lambda attempt: self._storage.get_all_trials(self.study_id, deepcopy=False, states=(TrialState.RUNNING,))
        )
        return [ClaimedBy(trial_id_of(trial), trial.number, _lease(trial)) for trial in trials]

    def _transaction(self) -> contextlib.AbstractContextManager[None]:
        return alone_in_journal(self._storage, self._file.lock)

    def _claimed_before(self, here: None, token: str) -> Claim | None:
        trials = replayed_trials(self._storage, self.study_id)
        ours = next((trial for trial in trials if _lease(trial) == lease_of(token, 0)), None)
        return None if ours is None else Claim(trial_id_of(ours), ours.number, token)

    def _take_next(self, here: None, token: str, total: int) -> Claim | None:
        trials, lease = replayed_trials(self._storage, self.study_id), lease_of(token, 0)
        ours = next((trial for trial in trials if trial.state is TrialState.WAITING), None)
        if ours is not None:
            trial_id = trial_id_of(ours)
            self._append(_leased(trial_id, lease), _with_state(trial_id, TrialState.RUNNING))
        elif len(trials) < total:
            ours = self._create(lease)
        return None if ours is None else Claim(trial_id_of(ours), ours.number, token)

    def _look(self, here: None, trial_id: int, *, to_end: bool = True) -> LeasedTrial:
        trial = replayed_trial(self._storage, trial_id)
        return LeasedTrial(trial_id, trial.state, _lease(trial))

    def _exchange(self, here: None, seen: LeasedTrial, lease: str) -> bool:
        self._append(_leased(seen.trial_id, lease))
        return True

    def _give_up(self, here: None, seen: LeasedTrial, mark: str) -> bool:
        self._append(_with_state(seen.trial_id, TrialState.WAITING), _leased(seen.trial_id, mark))
        return True

    def _end(self, here: None, seen: LeasedTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._append(_with_state(seen.trial_id, state, values))

    def _create(self, lease: str) -> FrozenTrial:
        """The next trial, running and leased in one line of the journal."""
        self._append(
            {
                "op_code": JournalOperation.CREATE_TRIAL,
                "study_id": self.study_id,
                "datetime_start": _now(),
                "state": TrialState.RUNNING,
                "system_attrs": {LEASE: json.loads(lease)},
            }
        )
        return replayed_trials(self._storage, self.study_id)[-1]

    def _append(self, *logs: dict[str, Any]) -> None:
        """Write and read back. Should the write be torn between two, the first alone leaves a trial that comes back."""
        append_to_journal(self._storage, list(logs))


def _lease(trial: FrozenTrial) -> str | None:
    held = trial.system_attrs
    lease = held.get(LEASE) if isinstance(held, dict) else None
    return None if lease is None else json.dumps(lease)


def _leased(trial_id: int, lease: str) -> dict[str, Any]:
    return {
        "op_code": JournalOperation.SET_TRIAL_SYSTEM_ATTR,
        "trial_id": trial_id,
        "system_attr": {LEASE: json.loads(lease)},
    }


def _with_state(trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> dict[str, Any]:
    log: dict[str, Any] = {
        "op_code": JournalOperation.SET_TRIAL_STATE_VALUES,
        "trial_id": trial_id,
        "state": state,
        "values": values,
    }
    if state is TrialState.RUNNING:
        log["datetime_start"] = _now()
    elif state.is_finished():
        log["datetime_complete"] = _now()
    return log


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
