"""Claims in a database, in statements of our own over Optuna's tables (which Optuna 5 keeps as they are).

Locks are taken in one order, so that no two transactions wait for each other: study row (when a trial is created),
trial row, lease row. SQLite has one lock, taken by BEGIN IMMEDIATE; the servers run at READ COMMITTED, so each
statement sees what was committed before it.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence

from optuna.trial import TrialState, create_trial
from sqlalchemy import Connection, Dialect, Engine, and_, case, delete, func, insert, select, update

from jorge_tune.study.storage.claims import LEASE, Claim, ClaimedBy, lease_of, new_token, owner_of, returned_lease
from jorge_tune.study.storage.optuna_private import CachedStorage, StudyInfo, models
from jorge_tune.study.storage.retry import Patience

STUDIES, TRIALS, VALUES = models.StudyModel.__table__, models.TrialModel.__table__, models.TrialValueModel.__table__
LEASES = models.TrialSystemAttributeModel.__table__


class DatabaseClaims:
    """`Claims` of one study in SQLite, PostgreSQL, MySQL or MariaDB.

    Args:
        storage: Optuna's own storage.
        study_id: the study.
        patience: runs each transaction, again if the database was gone meanwhile.
    """

    def __init__(self, storage: CachedStorage, study_id: int, patience: Patience) -> None:
        self._cache, self._study_id, self._patience = storage, study_id, patience
        self._engine: Engine = storage._backend.engine
        self._skips_locked = _skips_locked(self._engine.dialect)

    def claim(self, worker: str, total: int) -> Claim | None:
        """See `Claims.claim`."""
        token = new_token(worker)

        def transaction(attempt: int) -> Claim | None:
            with self._engine.begin() as connection:
                found = self._claimed_before(connection, token) if attempt else None
                if found is None and self._skips_locked:
                    found = self._pop(connection, token, skip_locked=True)
                return found or self._create(connection, token, total)

        claim = self._patience.run(transaction)
        if claim is not None:
            self._tell_cache(claim)
        return claim

    def renew(self, claim: Claim) -> bool:
        """See `Claims.renew`."""

        def transaction(attempt: int) -> bool:
            with self._engine.begin() as connection:
                lease = self._lease_if_running(connection, claim.trial_id)
                token, beat = owner_of(lease)
                if lease is None or token != claim.token:
                    return False
                return _exchange(connection, claim.trial_id, lease, lease_of(claim.token, beat + 1))

        return self._patience.run(transaction)

    def hand_back(self, claim: Claim) -> bool:
        """See `Claims.hand_back`."""
        return self._let_wait(claim.trial_id, lambda lease: owner_of(lease)[0] == claim.token)

    def finish(self, claim: Claim, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """See `Claims.finish`."""

        def transaction(attempt: int) -> bool:
            with self._engine.begin() as connection:
                before = _lock_trial(connection, claim.trial_id)
                if owner_of(_lease(connection, claim.trial_id))[0] != claim.token:
                    return False
                if before is TrialState.RUNNING:
                    _set_values(connection, claim.trial_id, values or ())
                    _set_state(connection, claim.trial_id, state)
                    return True
                return bool(attempt) and before is state

        return self._patience.run(transaction)

    def running(self) -> list[ClaimedBy]:
        """See `Claims.running`."""
        lease = and_(LEASES.c.trial_id == TRIALS.c.trial_id, LEASES.c.key == LEASE)
        query = (
            select(TRIALS.c.trial_id, TRIALS.c.number, LEASES.c.value_json)
            .select_from(TRIALS.outerjoin(LEASES, lease))
            .where(TRIALS.c.study_id == self._study_id, TRIALS.c.state == TrialState.RUNNING)
            .order_by(TRIALS.c.number)
        )

        def transaction(attempt: int) -> list[ClaimedBy]:
            with self._engine.begin() as connection:
                return [ClaimedBy(*row) for row in connection.execute(query)]

        return self._patience.run(transaction)

    def take_back(self, held: ClaimedBy) -> bool:
        """See `Claims.take_back`."""
        return self._let_wait(held.trial_id, lambda lease: lease == held.lease)

    def _let_wait(self, trial_id: int, may: Callable[[str | None], bool]) -> bool:
        mark = returned_lease()

        def transaction(attempt: int) -> bool:
            with self._engine.begin() as connection:
                state = _lock_trial(connection, trial_id)
                lease = _lease(connection, trial_id)
                if attempt and lease == mark:
                    return True
                if (
                    state is not TrialState.RUNNING
                    or not may(lease)
                    or not _exchange(connection, trial_id, lease, mark)
                ):
                    return False
                _set_state(connection, trial_id, TrialState.WAITING)
                return True

        return self._patience.run(transaction)

    def _tell_cache(self, claim: Claim) -> None:
        """Optuna's cache must know a trial before it takes parameters for it; it reads running trials anew anyway."""
        known = create_trial(state=TrialState.RUNNING)
        known.number, known._trial_id = claim.number, claim.trial_id
        with self._cache._lock:
            self._cache._studies.setdefault(self._study_id, StudyInfo())
            self._cache._add_trials_to_cache(self._study_id, [known])

    def _claimed_before(self, connection: Connection, token: str) -> Claim | None:
        """What an attempt claimed whose commit arrived although its answer did not."""
        query = (
            select(TRIALS.c.trial_id, TRIALS.c.number)
            .join_from(TRIALS, LEASES, LEASES.c.trial_id == TRIALS.c.trial_id)
            .where(TRIALS.c.study_id == self._study_id, TRIALS.c.state == TrialState.RUNNING)
            .where(LEASES.c.key == LEASE, LEASES.c.value_json == lease_of(token, 0))
        )
        row = connection.execute(query).first()
        return None if row is None else Claim(row.trial_id, row.number, token)

    def _pop(self, connection: Connection, token: str, *, skip_locked: bool) -> Claim | None:
        """The waiting trial with the lowest number; with `skip_locked` one that nobody else is popping just now."""
        query = (
            select(TRIALS.c.trial_id, TRIALS.c.number)
            .where(TRIALS.c.study_id == self._study_id, TRIALS.c.state == TrialState.WAITING)
            .order_by(TRIALS.c.number)
            .limit(1)
            .with_for_update(skip_locked=skip_locked)
        )
        row = connection.execute(query).first()
        if row is None:
            return None
        _set_state(connection, row.trial_id, TrialState.RUNNING)
        _put_lease(connection, row.trial_id, lease_of(token, 0))
        return Claim(row.trial_id, row.number, token)

    def _create(self, connection: Connection, token: str, total: int) -> Claim | None:
        """The next trial if there may be one; the study row's lock is the one under which Optuna counts, too.

        A waiting trial whose lock somebody holds may come free again, so it is waited for and not passed over.
        """
        connection.execute(select(STUDIES.c.study_id).where(STUDIES.c.study_id == self._study_id).with_for_update())
        waiting = func.count(case((TRIALS.c.state == TrialState.WAITING, 1)))
        counts = connection.execute(select(func.count(), waiting).where(TRIALS.c.study_id == self._study_id)).one()
        if counts[1]:
            popped = self._pop(connection, token, skip_locked=False)
            if popped is not None:
                return popped
        if counts[0] >= total:
            return None
        trial = insert(TRIALS).values(
            study_id=self._study_id, number=counts[0], state=TrialState.RUNNING, datetime_start=_now()
        )
        key = connection.execute(trial).inserted_primary_key
        assert key is not None
        trial_id = int(key[0])
        connection.execute(insert(LEASES).values(trial_id=trial_id, key=LEASE, value_json=lease_of(token, 0)))
        return Claim(trial_id, counts[0], token)

    def _lease_if_running(self, connection: Connection, trial_id: int) -> str | None:
        query = (
            select(LEASES.c.value_json)
            .join_from(LEASES, TRIALS, LEASES.c.trial_id == TRIALS.c.trial_id)
            .where(LEASES.c.trial_id == trial_id, LEASES.c.key == LEASE, TRIALS.c.state == TrialState.RUNNING)
        )
        return connection.scalar(query)


def _skips_locked(dialect: Dialect) -> bool:
    """Whether the database knows SKIP LOCKED; where it does not, the study row's lock is taken for every claim."""
    if dialect.name != "mysql":
        return dialect.name == "postgresql"
    return (dialect.server_version_info or (0,)) >= ((10, 6) if getattr(dialect, "is_mariadb", False) else (8, 0))


def _lock_trial(connection: Connection, trial_id: int) -> TrialState | None:
    return connection.scalar(select(TRIALS.c.state).where(TRIALS.c.trial_id == trial_id).with_for_update())


def _lease(connection: Connection, trial_id: int) -> str | None:
    return connection.scalar(select(LEASES.c.value_json).where(LEASES.c.trial_id == trial_id, LEASES.c.key == LEASE))


def _exchange(connection: Connection, trial_id: int, seen: str | None, lease: str) -> bool:
    """Put a lease in place of the one that was seen; False if it is another by now.

    Where none was seen we hold the trial's lock, under which alone a first lease is put.
    """
    if seen is None:
        _put_lease(connection, trial_id, lease)
        return True
    changed = connection.execute(
        update(LEASES)
        .where(LEASES.c.trial_id == trial_id, LEASES.c.key == LEASE, LEASES.c.value_json == seen)
        .values(value_json=lease)
    )
    return changed.rowcount == 1


def _put_lease(connection: Connection, trial_id: int, lease: str) -> None:
    """Write the lease of a trial whose lock we hold, over whatever an earlier owner left."""
    there = update(LEASES).where(LEASES.c.trial_id == trial_id, LEASES.c.key == LEASE).values(value_json=lease)
    if connection.execute(there).rowcount == 0:
        connection.execute(insert(LEASES).values(trial_id=trial_id, key=LEASE, value_json=lease))


def _set_state(connection: Connection, trial_id: int, state: TrialState) -> None:
    changes: dict[str, object] = {"state": state}
    if state is TrialState.RUNNING:
        changes["datetime_start"] = _now()
    elif state.is_finished():
        changes["datetime_complete"] = _now()
    connection.execute(update(TRIALS).where(TRIALS.c.trial_id == trial_id).values(**changes))


def _set_values(connection: Connection, trial_id: int, values: Sequence[float]) -> None:
    if not values:
        return
    connection.execute(delete(VALUES).where(VALUES.c.trial_id == trial_id))
    for objective, value in enumerate(values):
        stored, kind = models.TrialValueModel.value_to_stored_repr(float(value))
        connection.execute(insert(VALUES).values(trial_id=trial_id, objective=objective, value=stored, value_type=kind))


def _now() -> datetime.datetime:
    """As Optuna stores times: UTC, naive."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
