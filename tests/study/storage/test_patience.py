from __future__ import annotations

import errno
import threading
import time
import traceback

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from jorge_tune.study.storage.address import parse_address
from jorge_tune.study.storage.open import claims_for
from jorge_tune.study.storage.retry import DamagedFileError, Patience, StorageError
from tests.study.storage.claiming import claim_patiently
from tests.study.storage.crowd import crowd

LEAK = "hunter2hunter2"


class Clock:
    """Time that passes only in sleep."""

    def __init__(self):
        self.now, self.slept = 0.0, []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.slept.append(seconds)


@pytest.fixture
def clock():
    return Clock()


def patience_with(clock, **options):
    address = parse_address(f"postgresql://u:{LEAK}@h/d")
    return Patience(address, clock=clock, sleep=clock.sleep, **options)


def gone(*attempts):
    """An operation that finds its disk gone for so many attempts and returns the attempt's number then."""
    left = list(attempts)

    def operation(attempt):
        if left:
            raise OSError(left.pop(0), f"gone {LEAK}")
        return attempt

    return operation


def test_pauses_grow_to_five_seconds_and_one_is_told_once_per_outage(clock):
    heard = []
    patience = patience_with(clock, told=heard.append)
    assert patience.run(gone(*[errno.EIO] * 8)) == 8
    assert clock.now == pytest.approx(0.2 + 0.4 + 0.8 + 1.6 + 3.2 + 5 + 5 + 5)
    assert heard == [
        "postgresql://u:***@h/d: waiting for the database (gone ***)",
        "postgresql://u:***@h/d: the database is back",
    ]
    assert patience.run(gone(errno.ESTALE)) == 1
    assert len(heard) == 4
    assert patience.run(gone()) == 0
    assert len(heard) == 4


def test_patience_ends_in_words_without_the_password(clock):
    with pytest.raises(
        StorageError, match=r"gone for 30 seconds \(gone \*\*\*\); start again when it is back"
    ) as caught:
        patience_with(clock, seconds=30).run(gone(*[errno.EIO] * 100))
    assert LEAK not in "".join(traceback.format_exception(caught.value))
    assert clock.now == pytest.approx(30)


def test_a_wait_that_is_no_longer_wanted_ends_within_a_moment(clock):
    patience = patience_with(clock, unwanted=lambda: clock.now > 3)
    with pytest.raises(StorageError, match="gone for 3 seconds"):
        patience.run(gone(*[errno.EIO] * 100))
    assert clock.now < 3.5


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "x"), "the disk is full; make room and start again"),
        (OSError(errno.EDQUOT, "x"), "the disk is full; make room and start again"),
        (OSError(errno.EACCES, f"no {LEAK}"), r"no \*\*\*$"),
        (optuna.exceptions.StorageInternalError(f"odd {LEAK}"), r"odd \*\*\*$"),
    ],
)
def test_what_waiting_cannot_mend_is_raised_at_once(clock, error, message):
    def operation(attempt):
        raise error

    with pytest.raises(StorageError, match=message) as caught:
        patience_with(clock).run(operation)
    assert clock.slept == []
    assert LEAK not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("error", [KeyError("x"), ValueError("x"), optuna.exceptions.UpdateFinishedTrialError("x")])
def test_logic_errors_pass(clock, error):
    def operation(attempt):
        raise error

    with pytest.raises(type(error)):
        patience_with(clock).run(operation)
    assert clock.slept == []


def test_damage_is_told_also_where_the_file_went(tmp_path, clock):
    path = tmp_path / "a.journal"
    path.write_text("x\n")
    patience = Patience(parse_address(str(path)), clock=clock, sleep=clock.sleep)

    def operation(attempt):
        raise DamagedFileError("line 1 is not a journal entry")

    with pytest.raises(StorageError, match=r"line 1 .*: the file is damaged; a copy is kept as .*a.journal.damaged-1"):
        patience.run(operation)


class Loss:
    """Loses the connection at the next commit, before or after it is done; so often, and then no more."""

    def __init__(self, storage, monkeypatch):
        self._left, self._after = 0, False
        if hasattr(storage.inner, "_backend") and hasattr(storage.inner._backend, "engine"):
            dialect = storage.inner._backend.engine.dialect
            self._commit, self._driver = dialect.do_commit, dialect.dbapi
            monkeypatch.setattr(dialect, "do_commit", self._lose_commit)
        else:
            backend = storage.inner._backend
            self._append = backend.append_logs
            monkeypatch.setattr(backend, "append_logs", self._lose_append)

    def at_next_commit(self, *, after):
        self._left, self._after = 1, after

    @property
    def happened(self):
        return self._left == 0

    def _lose_commit(self, connection):
        if not self._left:
            return self._commit(connection)
        self._left -= 1
        if self._after:
            self._commit(connection)
        connection.driver_connection.close()
        raise self._driver.OperationalError(2013, "Lost connection to server during query")

    def _lose_append(self, logs):
        if not self._left:
            return self._append(logs)
        self._left -= 1
        if self._after:
            self._append(logs)
        raise OSError(errno.EIO, "Input/output error")


on_what_can_be_lost = pytest.mark.parametrize("storage_address", ["journal", "postgresql", "mysql"], indirect=True)


@pytest.fixture(params=["before", "after"])
def lossy(request, storage_address, study_name, opened, monkeypatch):
    """A study, its claims, and a function that does something whose commit is lost, and sees that it was done once."""
    storage = opened(storage_address)
    study = optuna.create_study(study_name=study_name, storage=storage)
    loss = Loss(storage, monkeypatch)

    def lose(call):
        loss.at_next_commit(after=request.param == "after")
        result = call()
        assert loss.happened
        return result

    yield study, claims_for(storage, study._study_id), lose
    if study_name in optuna.get_all_study_names(storage):
        optuna.delete_study(study_name=study_name, storage=storage)


@on_what_can_be_lost
def test_a_claim_whose_answer_was_lost_is_one_claim(lossy):
    study, claims, lose = lossy
    created = lose(lambda: claims.claim("w", 3))
    study.enqueue_trial({"x": 0.5})
    popped = lose(lambda: claims.claim("w", 3))
    assert (created.number, popped.number) == (0, 1)
    assert [trial.state.name for trial in study.get_trials()] == ["RUNNING"] * 2
    assert [(held.number, held.lease is not None) for held in claims.running()] == [(0, True), (1, True)]
    for claim in (created, popped):
        assert lose(lambda claim=claim: claims.renew(claim))
        assert lose(lambda claim=claim: claims.finish(claim, TrialState.COMPLETE, [1.0]))
        assert not claims.finish(claim, TrialState.COMPLETE, [2.0])
    assert [trial.values for trial in study.get_trials()] == [[1.0]] * 2


@on_what_can_be_lost
def test_a_return_whose_answer_was_lost_is_one_return(lossy):
    study, claims, lose = lossy
    claim = claims.claim("w", 1)
    assert lose(lambda: claims.hand_back(claim))
    claims.claim("w", 1)
    (held,) = claims.running()
    assert lose(lambda: claims.take_back(held))
    assert not claims.take_back(held)
    assert [trial.state.name for trial in study.get_trials()] == ["WAITING"]


@on_what_can_be_lost
def test_optunas_own_calls_happen_once_whatever_was_lost(lossy, study_name):
    study, _, lose = lossy
    storage, x = study._storage, FloatDistribution(0, 1)
    lose(lambda: study.enqueue_trial({"x": 0.5}))
    trial_id = lose(lambda: storage.create_new_trial(study._study_id))
    lose(lambda: storage.set_trial_param(trial_id, "x", 0.25, x))
    lose(lambda: storage.set_trial_intermediate_value(trial_id, 1, 0.5))
    lose(lambda: storage.set_trial_user_attr(trial_id, "a", [1]))
    lose(lambda: storage.set_trial_system_attr(trial_id, "b", {"c": 2}))
    lose(lambda: storage.set_study_user_attr(study._study_id, "d", 3))
    assert lose(lambda: storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.5]))
    waiting, told = study.get_trials()
    assert waiting.state is TrialState.WAITING
    assert (told.number, told.params, told.values) == (1, {"x": 0.25}, [1.5])
    assert (told.intermediate_values, told.user_attrs, told.system_attrs["b"]) == ({1: 0.5}, {"a": [1]}, {"c": 2})
    assert told.distributions == {"x": x}
    assert study.user_attrs == {"d": 3}
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.5])
    lose(lambda: optuna.delete_study(study_name=study_name, storage=storage))
    assert study_name not in optuna.get_all_study_names(storage)


def outlast(restart, address, study_name, seconds):
    """What four patient workers came to, each a list of numbers and of sentences, while a database was restarted."""
    restarting = threading.Thread(target=restart)
    restarting.start()
    results = crowd(claim_patiently, [(address, study_name, f"w{index}", 100_000, seconds) for index in range(4)])
    restarting.join()
    return results


def test_workers_outlast_a_restart_of_the_database(private_postgresql, study_name, opened):
    address = parse_address(private_postgresql.url())
    study = optuna.create_study(study_name=study_name, storage=opened(address))

    def restart():
        for mode in ("fast", "immediate"):
            time.sleep(1.5)
            private_postgresql.stop(mode)
            time.sleep(1.5)
            private_postgresql.start()

    results = outlast(restart, address, study_name, 8.0)
    trials = study.get_trials()
    numbers = sorted(number for numbers, _ in results for number in numbers)
    assert numbers == [trial.number for trial in trials if trial.state is TrialState.COMPLETE]
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert len(trials) == len(numbers)
    heard = [sentence for _, told in results for sentence in told]
    assert sum("waiting for the database" in sentence for sentence in heard) >= 4
    assert sum("is back" in sentence for sentence in heard) == sum("waiting" in sentence for sentence in heard)
    assert all("p@ss" not in sentence for sentence in heard)


@pytest.mark.slow
def test_workers_outlast_a_database_that_is_gone_for_35_seconds(private_postgresql, study_name, opened):
    address = parse_address(private_postgresql.url())
    study = optuna.create_study(study_name=study_name, storage=opened(address))

    def restart():
        time.sleep(2)
        private_postgresql.stop("immediate")
        time.sleep(35)
        private_postgresql.start()

    results = outlast(restart, address, study_name, 45.0)
    trials = study.get_trials()
    assert sorted(number for numbers, _ in results for number in numbers) == [trial.number for trial in trials]
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}


_CONNECTIONS = {
    "postgresql": "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid != pg_backend_pid()",
    "mysql": "SELECT id FROM information_schema.processlist WHERE db = database() AND id != connection_id()",
}
_KILL = {"postgresql": "SELECT pg_terminate_backend({})", "mysql": "KILL {}"}


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_connections_that_the_server_cuts_cost_no_trial(kind, request, study_name, opened):
    address = parse_address(request.getfixturevalue(f"{kind}_url"))
    storage = opened(address)
    study = optuna.create_study(study_name=study_name, storage=storage)
    engine = create_engine(address.url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    done = threading.Event()

    def cut():
        while not done.wait(0.3):
            with engine.connect() as connection:
                for (number,) in connection.execute(text(_CONNECTIONS[kind])).all():
                    try:
                        connection.execute(text(_KILL[kind].format(number)))
                    except Exception:  # it is gone by itself
                        continue

    cutting = threading.Thread(target=cut)
    cutting.start()
    try:
        results = crowd(claim_patiently, [(address, study_name, f"w{index}", 100_000, 4.0) for index in range(4)])
    finally:
        done.set()
        cutting.join()
    trials = study.get_trials()
    assert sorted(number for numbers, _ in results for number in numbers) == [trial.number for trial in trials]
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert any(told for _, told in results), "connections were cut"
    optuna.delete_study(study_name=study_name, storage=storage)
