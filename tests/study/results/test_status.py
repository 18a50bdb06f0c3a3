"""How a study stands: from its trials, its workers' files, and the clock."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import pytest

from jorge_tune.study.confirm import companion_studies, conclude
from jorge_tune.study.jobs.client import ProcessEnd
from jorge_tune.study.runs_directory import Presence
from jorge_tune.study.status import eta, read_status
from jorge_tune.study.storage.address import parse_address
from jorge_tune.study.study import add_point
from jorge_tune.study.trial_rows import TrialRow
from tests.study.empty_runs import FINISHED, EmptyRuns
from tests.study.searched import Searched

START = datetime(2026, 1, 1)


def row(number, seconds=None, state="complete"):
    ended = None if seconds is None else START + timedelta(seconds=100 * number + seconds)
    return TrialRow(number, state, started=START + timedelta(seconds=100 * number), ended=ended)


def test_the_time_left_is_that_of_the_remaining_trials_side_by_side():
    ended = [row(0, 10), row(1, 20), row(2, 30)]
    assert eta(ended, 10, 2) == pytest.approx(20 * (7 - 1) / 2)  # of seven, two run and are half done
    assert eta(ended, 3, 0) == 0.0
    assert eta(ended, 4, 1) == pytest.approx(10)
    assert eta([], 10, 2) is None
    assert eta(ended, 10, 0) is None


def test_the_time_left_follows_the_last_trials():
    slow_at_first = [row(n, 90) for n in range(10)] + [row(n, 10) for n in range(10, 30)]
    assert eta(slow_at_first, 31, 1) == pytest.approx(5)


def status_of(made):
    return read_status(made.opened, made.runs("small"), made.address, companion_studies(made.opened))


def test_a_finished_study(tmp_path):
    made = Searched(tmp_path, confirm_seeds=(1,))
    add_point(made.opened, {"lr_factor": 2.0, "refresh_interval": 5})
    made.search(EmptyRuns())
    conclude(made.opened)
    status = status_of(made)
    assert (status.state, status.ended, status.remaining, status.total) == ("done", 4, 0, 4)
    assert status.counts == {"complete": 4, "pruned": 0, "failed": 0, "running": 0, "waiting": 0}
    assert status.best.value == pytest.approx(5 * 0.1 * status.best.point["lr_factor"])
    assert status.best_values["optimizer.lr"] == pytest.approx(0.1 * status.best.point["lr_factor"])
    assert status.baseline == pytest.approx(0.5)
    assert [(one.name, one.ended, one.total) for one in status.companions] == [("small.sgd", 1, 1)]
    assert status.verdict["study"] == "small"
    data = json.loads(json.dumps(status.to_json(), allow_nan=False))
    assert data["best"]["number"] == status.best.number
    assert (data["state"], data["eta_seconds"], data["lost"]) == ("done", 0.0, [])


def test_a_new_study_waits_for_workers(tmp_path):
    status = status_of(Searched(tmp_path))
    assert (status.state, status.remaining, status.eta_seconds) == ("idle", 4, None)
    assert (status.best, status.baseline, status.verdict) == (None, None, None)
    assert json.loads(json.dumps(status.to_json()))["best"] is None


def test_a_running_trial_is_shown_with_what_its_worker_says(tmp_path):
    made = Searched(tmp_path)
    made.opened.enter(made.runs("small"))
    with Presence(made.runs("small"), "w-one") as worker, Presence(made.runs("small"), "w-two"):
        made.opened.claims.claim("w-one", 4)
        worker.update(trial=0, seed=3, epoch=1.5, metrics={"top1": 0.5})
        status = status_of(made)
        (running,) = status.running
        assert (running.number, running.worker, running.life) == (0, "w-one", "alive")
        assert (running.seed, running.epoch, running.metrics) == (3, 1.5, {"top1": 0.5})
        assert not running.is_lost
        assert status.idle == ("w-two",)
        assert status.state == "running"
    status = status_of(made)  # both left: their locks are gone with them
    assert status.running[0].life == "unknown"


def test_a_trial_of_a_worker_elsewhere_is_not_taken_for_lost(tmp_path):
    made = Searched(tmp_path)
    made.opened.claims.claim("w-far", 4)
    status = status_of(made)
    assert status.lost == ()
    assert status.running[0].life == "unknown"


def test_a_dead_workers_trial_is_lost_and_so_is_one_that_nobody_holds(tmp_path):
    made = Searched(tmp_path)
    made.lose_a_worker()
    made.opened.study.ask()  # a trial without a lease, as a foreign program would make it
    status = status_of(made)
    assert status.lost == (0, 1)
    assert status.state == "idle"
    assert [one.worker for one in status.running] == ["w-dead", None]


def test_the_stop_request_is_shown(tmp_path):
    made = Searched(tmp_path)
    made.opened.request_stop("finish", "asked for")
    assert status_of(made).stop == "finish: asked for"


def test_the_storages_password_is_masked(tmp_path):
    made = Searched(tmp_path)
    address = parse_address("postgresql://me:se%23cret@db.example/studies")
    status = read_status(made.opened, tmp_path, address)
    assert status.storage == "postgresql://me:***@db.example/studies"
    assert "cret" not in json.dumps(status.to_json())


def test_trials_that_were_started_again_are_counted(tmp_path):
    made = Searched(tmp_path, trials=2)
    killed = ProcessEnd("killed", "killed by SIGKILL")
    made.work(
        made.opened, EmptyRuns(end=lambda name, start: killed if (name, start) == ("trial-0/seed-0", 1) else FINISHED)
    )
    status = status_of(made)
    assert (status.restarted, status.ended) == (1, 2)
