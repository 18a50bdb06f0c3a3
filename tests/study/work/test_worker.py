"""The worker's loop on a real storage, with runs that train nothing; and with real ones."""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import TrialState

from jorge_tune.files import take
from jorge_tune.recipe.recipe_files import parse_recipe
from jorge_tune.study.constraint import IterationTimes
from jorge_tune.study.jobs.client import ProcessEnd
from jorge_tune.study.jobs.job import Machine, RunFollower
from jorge_tune.study.leases import LeaseTimes
from jorge_tune.study.space import trained_interval
from jorge_tune.study.stop import WorkerStops
from jorge_tune.study.storage.open import open_storage
from jorge_tune.study.study import join_study, open_study
from jorge_tune.study.study_schema import Objective
from jorge_tune.study.worker import Worker, WorkerExit, WorkerSettings
from tests.small_disk import fill, grow, small_disk
from tests.study.empty_runs import FINISHED, EmptyRuns
from tests.study.small_studies import small_plan, sqlite_at
from tests.training.serving import server_of_the_tests
from tests.waiting import wait_until

KILLED = ProcessEnd("killed", "killed by SIGKILL")
SHORT = LeaseTimes.lasting(3.0)  # for tests about leases alone: a machine may stand still for 2 s


class Rig:
    """A study in a directory, and workers on it."""

    def __init__(self, folder: Path, **plan) -> None:
        self.folder, self.plan = folder, small_plan(**plan)
        self.told = []
        self.opened = open_study(open_storage(sqlite_at(folder)), self.plan, lambda name: folder / "runs")

    def work(self, runs, *, stops: WorkerStops | None = None, into: str = "runs", **settings) -> WorkerExit:
        stops = stops or WorkerStops()
        opened = join_study(open_storage(sqlite_at(self.folder)), self.plan.name)
        made = WorkerSettings(device="cpu", threads=1, **settings)
        costs = IterationTimes(opened, device="cpu", threads=1)
        folder = opened.enter(self.folder / into)
        left = Worker(opened, folder, runs, stops, made, costs, self.told.append).work()
        stops.close()
        return left

    @property
    def trials(self):
        return self.opened.study.get_trials()

    def states(self) -> list[str]:
        return [trial.state.name for trial in self.trials]

    def has_reported(self, evaluations: int) -> bool:
        """Whether the first trial has."""
        return any(len(trial.intermediate_values) >= evaluations for trial in self.trials[:1])


def once(condition, act) -> None:
    """Act in another thread as soon as something holds, or (for a test to fail and not to hang) never does."""

    def wait() -> None:
        with contextlib.suppress(AssertionError):
            wait_until(condition, 60)
        act()

    threading.Thread(target=wait, daemon=True).start()


def by_folder(**script):
    """How starts end by directory (`trial-1/seed-0` as `trial_1`): a list, and FINISHED after it."""

    def end(folder: str, start: int) -> ProcessEnd | None:
        ends = script.get(folder.partition("/")[0].replace("-", "_"), [])
        return ends[start - 1] if start <= len(ends) else FINISHED

    return end


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr("jorge_tune.study.jobs.faults._PAUSES", (0.0,))


def test_all_trials_are_run_and_reported_with_all_parameters(tmp_path):
    rig = Rig(tmp_path, trials=6, sampler="tpe")
    assert rig.work(EmptyRuns()) == WorkerExit("done", trials=6)
    assert rig.states() == ["COMPLETE"] * 6
    for trial in rig.trials:
        assert set(trial.params) == {"lr_factor", "refresh_interval"}
        lr = rig.plan.recipe.optimizer.lr * trial.params["lr_factor"]
        assert trial.value == pytest.approx(5 * lr, rel=1e-9)
        assert sorted(trial.intermediate_values) == [1, 2, 3, 4, 5]
        assert trial.user_attrs["values"] == {"0": trial.value}
        assert not trial.constraints
    assert rig.trials[0].params == {"lr_factor": 1.0, "refresh_interval": 10}
    assert list((tmp_path / "runs" / "workers").glob("w-*")) == []


def test_the_recipe_of_a_trial_is_its_points(tmp_path):
    rig, runs = Rig(tmp_path, trials=3, seeds=(4, 7)), EmptyRuns()
    rig.work(runs)
    texts = {"/".join(Path(job.out).parts[-2:]): job.recipe_text for job in runs.jobs}
    assert set(texts) == {f"trial-{n}/seed-{seed}" for n in range(3) for seed in (4, 7)}
    for trial in rig.trials:
        recipe = parse_recipe(texts[f"trial-{trial.number}/seed-7"], "job").recipe
        assert recipe.seed == 7
        assert trained_interval(recipe.optimizer) == trial.params["refresh_interval"]
        assert recipe.optimizer.lr == pytest.approx(0.1 * trial.params["lr_factor"])


def test_a_value_is_the_median_over_seeds_and_only_the_first_is_reported(tmp_path):
    rig = Rig(tmp_path, trials=2, seeds=(0, 1, 2))
    rig.work(EmptyRuns(lambda lr, seed, evaluation: (0.2, 0.9, 0.5)[seed] + 0.01 * evaluation))
    for trial in rig.trials:
        assert trial.value == pytest.approx(0.55)
        assert trial.intermediate_values == pytest.approx({n: 0.2 + 0.01 * n for n in range(1, 6)})
        assert trial.user_attrs["values"] == pytest.approx({"0": 0.25, "1": 0.95, "2": 0.55})


def test_a_divergence_is_the_worst_value_and_is_not_tried_again(tmp_path):
    rig = Rig(tmp_path, trials=2)
    runs = EmptyRuns(end=by_folder(trial_1=[ProcessEnd("diverged", "the loss was first not finite at step 3")]))
    rig.work(runs)
    assert rig.states() == ["COMPLETE", "COMPLETE"]
    assert rig.trials[1].value == -math.inf
    assert rig.trials[1].user_attrs["diverged"] is True
    assert rig.trials[1].user_attrs["values"] == {"0": "-inf"}
    assert "diverged" not in rig.trials[0].user_attrs
    assert runs.starts["trial-1/seed-0"] == 1


def test_seeds_that_cannot_change_a_lost_median_are_spared(tmp_path):
    rig = Rig(tmp_path, trials=1, seeds=(0, 1, 2))
    runs = EmptyRuns(end=lambda folder, start: ProcessEnd("diverged", "") if "seed-2" not in folder else FINISHED)
    rig.work(runs)
    assert [Path(job.out).name for job in runs.jobs] == ["seed-0", "seed-1"]
    assert rig.trials[0].value == -math.inf


def test_a_missed_target_is_infinite(tmp_path):
    rig = Rig(tmp_path, trials=1, objective=Objective(kind="epochs-to-target", metric="top1", target=9.0))
    rig.work(EmptyRuns())
    assert rig.trials[0].value == math.inf
    assert "diverged" not in rig.trials[0].user_attrs
    assert rig.trials[0].intermediate_values[5] == pytest.approx(8.5)


def test_killed_runs_are_resumed_and_five_in_vain_fail_with_the_reason(tmp_path):
    rig = Rig(tmp_path, trials=3)
    runs = EmptyRuns(end=by_folder(trial_0=[KILLED] * 4, trial_1=[KILLED] * 9))
    rig.work(runs)
    assert rig.states() == ["COMPLETE", "FAIL", "COMPLETE"]
    assert runs.starts["trial-0/seed-0"] == 5
    assert runs.starts["trial-1/seed-0"] == 6  # the first one wrote a record, that it began; five wrote no new one
    reason = rig.trials[1].user_attrs["reason"]
    assert reason == "5 starts in a row ended without a new record (the last: killed by SIGKILL)"


def test_a_run_that_gets_further_each_time_is_never_given_up(tmp_path):
    rig = Rig(tmp_path, trials=1)
    runs = EmptyRuns(
        end=by_folder(trial_0=[KILLED, ProcessEnd("interrupted", "stopped by SIGTERM")] * 6), evaluations=14, reached=1
    )
    rig.work(runs)
    assert rig.states() == ["COMPLETE"]
    assert runs.starts["trial-0/seed-0"] == 13
    assert sorted(rig.trials[0].intermediate_values) == list(range(1, 15))


def test_memory_gets_one_more_try_and_what_changed_is_recorded(tmp_path):
    memory = ProcessEnd("failed", "CUDA out of memory", out_of_memory=True)
    rig = Rig(tmp_path, trials=3)
    rig.work(EmptyRuns(end=by_folder(trial_1=[memory], trial_2=[memory, memory])))
    assert rig.states() == ["COMPLETE", "COMPLETE", "FAIL"]
    assert rig.trials[1].user_attrs["changes"] == [
        "seed 0 ran out of memory: it runs again in a fresh process, while no other run of the study runs"
    ]
    assert rig.trials[2].user_attrs["reason"].startswith("out of memory again")


def test_a_trial_that_ran_out_of_memory_runs_alone_from_then_on(tmp_path, monkeypatch):
    memory = ProcessEnd("failed", "CUDA out of memory", out_of_memory=True)
    rig, asked = Rig(tmp_path, trials=1, seeds=(0, 1)), []
    holding = Machine.holding

    def seen(machine, wait, *, alone: bool):
        asked.append(alone)
        return holding(machine, wait, alone=alone)

    monkeypatch.setattr(Machine, "holding", seen)
    rig.work(EmptyRuns(end=lambda folder, start: memory if (folder, start) == ("trial-0/seed-0", 1) else FINISHED))
    assert rig.states() == ["COMPLETE"]
    assert asked == [False, True, True]


def test_a_run_hears_for_how_long_it_may_go_on(tmp_path):
    rig, children = Rig(tmp_path, trials=1), []
    runs = EmptyRuns()
    begin = runs.start
    runs.start = lambda job: children.append(begin(job)) or children[-1]
    rig.work(runs, times=SHORT)
    ((seconds, grace),) = children[0].kept
    assert 0 < seconds <= SHORT.stop_after
    assert grace == SHORT.kill_after - SHORT.stop_after


def test_a_trial_that_somebody_else_ended_meanwhile_is_let_go(tmp_path):
    """What a worker sees that stood still for longer than its lease: its trial has ended without it."""
    rig = Rig(tmp_path, trials=2)
    runs = EmptyRuns()
    begin = runs.start

    def start_and_lose(job):
        child = begin(job)
        if "trial-0" in job.out:
            rig.opened.storage.set_trial_state_values(rig.trials[0]._trial_id, TrialState.COMPLETE, [0.25])
        return child

    runs.start = start_and_lose
    rig.work(runs)
    assert rig.states() == ["COMPLETE"] * 2
    assert rig.trials[0].value == 0.25
    assert any(one.what == "another worker has ended it meanwhile" for one in rig.told)


def test_what_raises_fails_its_trial_and_three_in_a_row_stop_the_study(tmp_path):
    broke = ProcessEnd("failed", "ValueError: singular")
    rig = Rig(tmp_path, trials=9)
    left = rig.work(EmptyRuns(end=by_folder(trial_1=[broke], trial_3=[broke], trial_4=[broke], trial_5=[broke])))
    assert left.kind == "fault"
    assert left.exit_code == 1
    assert "3 trials in a row failed; the last: ValueError: singular" in left.reason
    assert rig.states() == ["COMPLETE", "FAIL", "COMPLETE", "FAIL", "FAIL", "FAIL"]


def test_bad_input_stops_the_study_and_burns_no_trial(tmp_path):
    rig = Rig(tmp_path, trials=4)
    bad = ProcessEnd("failed", "data/x: there is no such directory", input_error=True)
    left = rig.work(EmptyRuns(end=by_folder(trial_1=[bad])))
    assert left == WorkerExit("fault", "data/x: there is no such directory", 2, 1)
    assert rig.states() == ["COMPLETE", "WAITING"]
    assert rig.work(EmptyRuns()) == WorkerExit("stopped", "data/x: there is no such directory", 2, 0)
    rig.opened.withdraw_stop_request()
    assert rig.work(EmptyRuns()) == WorkerExit("done", trials=3)
    assert rig.states() == ["COMPLETE"] * 4


def test_a_full_disk_stops_the_study(tmp_path):
    rig = Rig(tmp_path, trials=2)
    full = ProcessEnd("failed", "the run broke off: OSError: [Errno 28] No space left on device")
    left = rig.work(EmptyRuns(end=by_folder(trial_0=[full])))
    assert (left.kind, left.exit_code) == ("fault", 1)
    assert rig.states() == ["WAITING"]


def test_a_finished_run_is_reported_from_its_records_and_not_started_again(tmp_path):
    rig = Rig(tmp_path, trials=1)
    first = EmptyRuns()
    rig.work(first)
    # the worker died between the end of the run and the telling of it
    storage = rig.opened.storage
    folder = tmp_path / "again"
    folder.mkdir()
    again = Rig(folder, trials=1)
    (folder / "runs" / "trial-0").parent.mkdir(exist_ok=True)
    (tmp_path / "runs" / "trial-0").rename(folder / "runs" / "trial-0")
    second = EmptyRuns()
    again.work(second)
    assert second.jobs == []
    assert again.trials[0].value == rig.trials[0].value
    assert sorted(again.trials[0].intermediate_values) == [1, 2, 3, 4, 5]
    assert storage is not again.opened.storage


def test_damaged_records_fail_their_trial_and_no_other(tmp_path):
    rig = Rig(tmp_path, trials=2)
    records = tmp_path / "runs" / "trial-0" / "seed-0" / "records.jsonl"
    records.parent.mkdir(parents=True)
    records.write_text("no record\n")
    assert rig.work(EmptyRuns()).kind == "done"
    assert rig.states() == ["FAIL", "COMPLETE"]
    assert "not a record" in rig.trials[0].user_attrs["reason"]


def test_another_recipes_run_in_the_folder_is_not_taken_for_the_trials(tmp_path):
    rig = Rig(tmp_path, trials=1)
    rig.work(EmptyRuns())
    folder = tmp_path / "again"
    folder.mkdir()
    other = Rig(folder, trials=1, epochs=7)
    (tmp_path / "runs" / "trial-0").rename(folder / "runs" / "trial-0")
    runs = EmptyRuns()
    other.work(runs)
    assert len(runs.jobs) == 1


def test_pruning_ends_a_run_early_and_says_where(tmp_path):
    rig = Rig(tmp_path, trials=8, pruner="median", epochs=9)
    slow = EmptyRuns(end=lambda folder, start: None if folder == "trial-7/seed-0" else FINISHED, evaluations=6)
    slow._value = lambda lr, seed, evaluation: 0.0 if len(slow.jobs) == 8 else float(evaluation)
    left = rig.work(slow)
    assert left.kind == "done"
    assert rig.states() == ["COMPLETE"] * 7 + ["PRUNED"]
    pruned = rig.trials[7]
    assert pruned.user_attrs["reason"] == "at evaluation 6"
    assert pruned.value == 0.0


def test_wilcoxon_sees_one_value_per_seed(tmp_path):
    rig = Rig(tmp_path, trials=4, pruner="wilcoxon", seeds=tuple(range(8)))
    runs = EmptyRuns()
    runs._value = lambda lr, seed, evaluation: (
        (0.1 if runs.jobs and "trial-3" in runs.jobs[-1].out else 0.9) + seed / 100
    )
    rig.work(runs)
    assert rig.trials[0].intermediate_values == pytest.approx({seed: 0.9 + seed / 100 for seed in range(8)})
    last = rig.trials[3]
    assert last.state is TrialState.PRUNED
    assert 4 <= len(last.intermediate_values) < 8
    assert sum("trial-3" in job.out for job in runs.jobs) == len(last.intermediate_values)


def test_a_trial_that_was_started_goes_on_where_it_was(tmp_path):
    rig = Rig(tmp_path, trials=2)
    stops = WorkerStops()
    still = EmptyRuns(end=lambda folder, start: None, evaluations=2)
    once(lambda: rig.has_reported(2), lambda: stops.ask("signal", "stopped by SIGTERM"))
    assert rig.work(still, stops=stops) == WorkerExit("interrupted", "stopped by SIGTERM", 130, 0)
    (trial,) = rig.trials
    assert trial.state is TrialState.WAITING
    assert sorted(trial.intermediate_values) == [1, 2]
    rig.work(EmptyRuns())
    assert rig.states() == ["COMPLETE", "COMPLETE"]
    assert sorted(rig.trials[0].intermediate_values) == [1, 2, 3, 4, 5]
    follower = RunFollower(tmp_path / "runs" / "trial-0" / "seed-0")
    follower.read()
    assert [reading.step for reading in follower.readings] == [10, 20, 30, 40, 50]


@pytest.mark.parametrize(("how", "state"), [("checkpoint", "WAITING"), ("finish", "COMPLETE")])
def test_a_stop_request_reaches_a_worker_while_it_trains(tmp_path, monkeypatch, how, state):
    monkeypatch.setattr("jorge_tune.study.worker._LOOK_SECONDS", 0.0)
    rig = Rig(tmp_path, trials=3)
    runs = EmptyRuns(end=lambda folder, start: None if how == "checkpoint" else FINISHED)
    begin = runs.start

    def start_and_ask(job):
        child = begin(job)
        rig.opened.request_stop(how, "asked by study stop")
        return child

    runs.start = start_and_ask
    left = rig.work(runs)
    assert (left.kind, left.reason) == ("stopped", "asked by study stop")
    assert rig.states() == [state]


def test_when_the_hours_are_over_the_present_trial_is_the_last(tmp_path):
    rig, runs = Rig(tmp_path, trials=9), EmptyRuns()
    begin, deadline = runs.start, time.time() + 6

    def start(job):
        if runs.jobs:  # the second trial: begun in time, over too late
            time.sleep(max(0, deadline + 0.1 - time.time()))
        return begin(job)

    runs.start = start
    assert rig.work(runs, deadline=deadline) == WorkerExit("time", "the study's hours are over", 0, 2)
    assert rig.states() == ["COMPLETE"] * 2


def test_a_trial_lost_elsewhere_is_taken_over_once_its_lease_stood_still(tmp_path):
    rig = Rig(tmp_path, trials=1)
    assert rig.opened.claims.claim("w-of-another-machine", 1)
    began = time.monotonic()
    assert rig.work(EmptyRuns(), times=SHORT) == WorkerExit("done", trials=1)
    assert SHORT.lasts <= time.monotonic() - began < 20 * SHORT.lasts
    assert rig.states() == ["COMPLETE"]


def test_a_running_trial_without_a_lease_is_lost_too(tmp_path):
    rig = Rig(tmp_path, trials=1)
    trial = rig.opened.study.ask()  # as some other program would
    assert trial.number == 0
    assert rig.work(EmptyRuns(), times=SHORT) == WorkerExit("done", trials=1)


def test_a_worker_waits_for_the_others_trials(tmp_path):
    rig = Rig(tmp_path, trials=1)
    claim = rig.opened.claims.claim("w-other", 1)

    def go_on():
        for _ in range(12):
            time.sleep(0.5)
            assert rig.opened.claims.renew(claim)
        rig.opened.claims.finish(claim, TrialState.COMPLETE, [0.5])

    other = threading.Thread(target=go_on)
    other.start()
    runs = EmptyRuns()
    assert rig.work(runs, times=SHORT) == WorkerExit("done", trials=0)
    other.join()
    assert runs.jobs == []
    assert rig.trials[0].value == 0.5


def test_a_run_that_holds_its_folder_is_never_taken_over(tmp_path):
    rig = Rig(tmp_path, trials=1)
    rig.opened.claims.claim("w-of-another-machine", 1)
    log = tmp_path / "runs" / "trial-0" / "seed-0" / "log.txt"
    log.parent.mkdir(parents=True)
    held = os.open(log, os.O_RDWR | os.O_CREAT)
    assert take(held)
    began = time.monotonic()
    threading.Timer(2 * SHORT.lasts, os.close, (held,)).start()
    rig.work(EmptyRuns(), times=SHORT)
    assert time.monotonic() - began >= 2 * SHORT.lasts
    assert rig.states() == ["COMPLETE"]


def test_a_lease_that_cannot_be_renewed_ends_the_run_and_reports_nothing(tmp_path):
    rig = Rig(tmp_path, trials=1)
    runs = EmptyRuns(end=lambda folder, start: None if start == 1 else FINISHED)
    begin, taken = runs.start, []

    def start_and_lose(job):
        child = begin(job)
        if not taken:
            (held,) = rig.opened.claims.running()
            taken.append(rig.opened.claims.take_back(held))
            taken.append(rig.opened.claims.claim("w-other", 1))
        return child

    runs.start = start_and_lose
    lost = "another worker has taken the trial over"
    once(  # at once, for nobody renews the other's lease
        lambda: any(lost in told.what for told in list(rig.told)),
        lambda: rig.opened.claims.finish(taken[1], TrialState.COMPLETE, [42.0]),
    )
    assert rig.work(runs, times=SHORT) == WorkerExit("done", trials=0)
    assert rig.trials[0].value == 42.0
    assert any(lost in told.what for told in rig.told)


def test_where_the_folder_is_another_a_lost_trial_starts_anew_and_says_so(tmp_path):
    rig = Rig(tmp_path, trials=1)
    stops = WorkerStops()
    once(lambda: rig.has_reported(2), lambda: stops.ask("signal", "stopped by SIGTERM"))
    rig.work(EmptyRuns(end=lambda folder, start: None, evaluations=2), stops=stops)
    runs = EmptyRuns()
    rig.work(runs, into="elsewhere")
    assert rig.states() == ["COMPLETE"]
    assert rig.trials[0].user_attrs["restarted"].startswith("from its first step")
    follower = RunFollower(tmp_path / "elsewhere" / "trial-0" / "seed-0")
    follower.read()
    assert [reading.step for reading in follower.readings] == [10, 20, 30, 40, 50]
    assert sorted(rig.trials[0].intermediate_values) == [1, 2, 3, 4, 5]


def test_a_point_that_the_recipes_rules_refuse_fails_alone(tmp_path, monkeypatch):
    from jorge_tune.errors import InputError
    from jorge_tune.study.space import SearchSpace

    genuine = SearchSpace.recipe_of

    def refuses_five(self, point):
        if point["refresh_interval"] == 5:
            raise InputError("no recipe at this point of the space: x")
        return genuine(self, point)

    rig = Rig(tmp_path, trials=12)
    monkeypatch.setattr(SearchSpace, "recipe_of", refuses_five)
    assert rig.work(EmptyRuns()).kind == "done"
    for trial in rig.trials:
        assert (trial.state is TrialState.FAIL) == (trial.params["refresh_interval"] == 5)
    assert "FAIL" in rig.states()


def test_a_study_without_parameters_still_counts_its_starts(tmp_path):
    plan = small_plan()
    rig = Rig(tmp_path, trials=1, space=replace(plan.space, parameters=()))
    rig.work(EmptyRuns(end=by_folder(trial_0=[KILLED] * 9)))
    assert rig.states() == ["FAIL"]


def test_two_workers_share_a_study_on_every_storage(storage_address, study_name, opened, tmp_path):
    plan = small_plan(name=study_name, trials=12, sampler="tpe")
    made = open_study(opened(storage_address), plan, lambda name: tmp_path / "runs")
    lefts, runs = [], EmptyRuns()

    def work():
        study = join_study(opened(storage_address), study_name)
        costs = IterationTimes(study, device="cpu", threads=1)
        folder = study.enter(tmp_path / "runs")
        lefts.append(Worker(study, folder, runs, WorkerStops(), WorkerSettings(device="cpu", threads=1), costs).work())

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(100)
    assert sum(left.trials for left in lefts) == 12
    trials = made.study.get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 12
    assert all(sorted(trial.intermediate_values) == [1, 2, 3, 4, 5] for trial in trials)
    assert len({tuple(trial.params.values()) for trial in trials}) == 12
    assert set(runs.starts.values()) == {1}


def test_real_runs_train_and_a_killed_one_goes_on(tmp_path):
    """Digits: trial 1's process is killed after its first evaluation."""
    rig = Rig(tmp_path, trials=3, epochs=40)

    class Killing:
        def __init__(self) -> None:
            self.server, self.killed = server_of_the_tests(), []

        def start(self, job):
            child = self.server.start(job)
            if "trial-1" in job.out and not self.killed:
                child.poll(60)
                child.kill()
                self.killed.append(job.out)
            return child

    runs = Killing()
    assert rig.work(runs) == WorkerExit("done", trials=3)
    assert runs.killed
    assert rig.states() == ["COMPLETE"] * 3
    assert all(0 < trial.value <= 1 for trial in rig.trials)
    records = [json.loads(line) for line in (tmp_path / "runs/trial-1/seed-0/records.jsonl").read_text().splitlines()]
    assert sum(record["kind"] == "start" for record in records) == 2
    assert records[-1]["outcome"] == "finished"


def test_a_full_disk_under_the_runs_stops_the_study_and_no_trial_is_lost(tmp_path):
    with small_disk(tmp_path / "runs") as disk:
        rig = Rig(tmp_path, trials=2)
        fill(disk, left=40 * 1024)
        left = rig.work(server_of_the_tests())
        assert (left.kind, left.exit_code) == ("fault", 1)
        assert "the disk is full (No space left on device); free some space and start again" in left.reason
        assert rig.states() == ["WAITING"]
        grow(disk, "20m")
        rig.opened.withdraw_stop_request()
        assert rig.work(server_of_the_tests()) == WorkerExit("done", trials=2)
        assert rig.states() == ["COMPLETE"] * 2
