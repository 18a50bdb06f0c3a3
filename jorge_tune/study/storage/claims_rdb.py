"""Claims in a database, in statements of our own over Optuna's tables (which Optuna 5 keeps as they are).

Locks are taken in one order, so that no two transactions wait for each other: study row (when a trial is created),
trial row, lease row. SQLite has one lock, taken by BEGIN IMMEDIATE; the servers run at READ COMMITTED, so each
statement sees what was committed before it.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from contextlib import AbstractContextManager

from optuna.trial import TrialState
from sqlalchemy import Connection, Dialect, and_, case, delete, func, insert, select, update

from jorge_tune.study.storage.claims import LEASE, Claim, ClaimedBy, Claims, LeasedTrial, lease_of
from jorge_tune.study.storage.optuna_private import CachedStorage, database_of, models, remember_running_trial
from jorge_tune.study.storage.retry import Patience

STUDIES, TRIALS, VALUES = models.StudyModel.__table__, models.TrialModel.__table__, models.TrialValueModel.__table__
LEASES = models.TrialSystemAttributeModel.__table__


class DatabaseClaims(Claims[Connection]):
    """`Claims` of one study in SQLite, PostgreSQL, MySQL or MariaDB.

    Args:
        storage: Optuna's own storage.
        study_id: the study.
        patience: runs each transaction, again if the database was gone meanwhile.
    """

    def __init__(self, storage: CachedStorage, study_id: int, patience: Patience) -> None:
        super().__init__(study_id, patience)
        self._cache, self._engine = storage, database_of(storage).engine
        self._skips_locked = _skips_locked(self._engine.dialect)

    def claim(self, worker: str, total: int) -> Claim | None:
        """See `Claims.claim`; Optuna's cache must know a trial before it takes parameters for it."""
        claim = super().claim(worker, total)
        if claim is not None:
            remember_running_trial(self._cache, self.study_id, claim.trial_id, claim.number)
        return claim

    def running(self) -> list[ClaimedBy]:
        """See `Claims.running`."""
        lease = and_(LEASES.c.trial_id == TRIALS.c.trial_id, LEASES.c.key == LEASE)
        query = (
            select(TRIALS.c.trial_id, TRIALS.c.number, LEASES.c.value_json)
            .select_from(TRIALS.outerjoin(LEASES, lease))
            .where(TRIALS.c.study_id == self.study_id, TRIALS.c.state == TrialState.RUNNING)
            .order_by(TRIALS.c.number)
        )

        def step(attempt: int) -> list[ClaimedBy]:
            with self._transaction() as connection:
                return [ClaimedBy(*row) for row in connection.execute(query)]

        return self.patience.run(step)

    def _transaction(self) -> AbstractContextManager[Connection]:
        return self._engine.begin()

    def _claimed_before(self, here: Connection, token: str) -> Claim | None:
        query = (
            select(TRIALS.c.trial_id, TRIALS.c.number)
            .join_from(TRIALS, LEASES, LEASES.c.trial_id == TRIALS.c.trial_id)
            .where(TRIALS.c.study_id == self.study_id, TRIALS.c.state == TrialState.RUNNING)
            .where(LEASES.c.key == LEASE, LEASES.c.value_json == lease_of(token, 0))
        )
        row = here.execute(query).first()
        return None if row is None else Claim(row.trial_id, row.number, token)

    def _take_next(self, here: Connection, token: str, total: int) -> Claim | None:
        popped = self._pop(here, token, skip_locked=True) if self._skips_locked else None
        return popped or self._create(here, token, total)

    def _look(self, here: Connection, trial_id: int, *, to_end: bool = True) -> LeasedTrial:
        """A renewal locks no trial: its lease alone is compared, and would be another if the trial were not ours."""
        if to_end:
            state = here.scalar(select(TRIALS.c.state).where(TRIALS.c.trial_id == trial_id).with_for_update())
            query = select(LEASES.c.value_json).where(LEASES.c.trial_id == trial_id, LEASES.c.key == LEASE)
            return LeasedTrial(trial_id, state, here.scalar(query))
        lease = and_(LEASES.c.trial_id == TRIALS.c.trial_id, LEASES.c.key == LEASE)
        both = select(TRIALS.c.state, LEASES.c.value_json).select_from(TRIALS.outerjoin(LEASES, lease))
        row = here.execute(both.where(TRIALS.c.trial_id == trial_id)).first()
        return LeasedTrial(trial_id, None, None) if row is None else LeasedTrial(trial_id, row[0], row[1])

    def _exchange(self, here: Connection, seen: LeasedTrial, lease: str) -> bool:
        """Where no lease was seen we hold the trial's lock, under which alone a first one is put."""
        if seen.lease is None:
            _put_lease(here, seen.trial_id, lease)
            return True
        changed = here.execute(
            update(LEASES)
            .where(LEASES.c.trial_id == seen.trial_id, LEASES.c.key == LEASE, LEASES.c.value_json == seen.lease)
            .values(value_json=lease)
        )
        return changed.rowcount == 1

    def _give_up(self, here: Connection, seen: LeasedTrial, mark: str) -> bool:
        if not self._exchange(here, seen, mark):
            return False
        _set_state(here, seen.trial_id, TrialState.WAITING)
        return True

    def _end(self, here: Connection, seen: LeasedTrial, state: TrialState, values: Sequence[float] | None) -> None:
        _set_values(here, seen.trial_id, values or ())
        _set_state(here, seen.trial_id, state)

    def _pop(self, connection: Connection, token: str, *, skip_locked: bool) -> Claim | None:
        """The waiting trial with the lowest number; with `skip_locked` one that nobody else is popping just now."""
        query = (
            select(TRIALS.c.trial_id, TRIALS.c.number)
            .where(TRIALS.c.study_id == self.study_id, TRIALS.c.state == TrialState.WAITING)
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
        connection.execute(select(STUDIES.c.study_id).where(STUDIES.c.study_id == self.study_id).with_for_update())
        waiting = func.count(case((TRIALS.c.state == TrialState.WAITING, 1)))
        counts = connection.execute(select(func.count(), waiting).where(TRIALS.c.study_id == self.study_id)).one()
        if counts[1]:
            popped = self._pop(connection, token, skip_locked=False)
            if popped is not None:
                return popped
        if counts[0] >= total:
            return None
        trial = insert(TRIALS).values(
            study_id=self.study_id, number=counts[0], state=TrialState.RUNNING, datetime_start=_now()
        )
        key = connection.execute(trial).inserted_primary_key
        assert key is not None
        trial_id = int(key[0])
        connection.execute(insert(LEASES).values(trial_id=trial_id, key=LEASE, value_json=lease_of(token, 0)))
        return Claim(trial_id, counts[0], token)


def _skips_locked(dialect: Dialect) -> bool:
    """Whether the database knows SKIP LOCKED; where it does not, the study row's lock is taken for every claim."""
    if dialect.name != "mysql":
        return dialect.name == "postgresql"
    return (dialect.server_version_info or (0,)) >= ((10, 6) if getattr(dialect, "is_mariadb", False) else (8, 0))


def _put_lease(connection: Connection, trial_id: int, lease: str) -> None:
    """Write the lease of a trial whose lock we hold, replacing the one of an earlier owner."""
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
