"""The constraint on iteration time: what is calibrated, once, and what a trial's excess is."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from jorge_tune.errors import InputError, JorgeTuneError
from jorge_tune.study import constraint as calibration_process
from jorge_tune.study.constraint import Cost, IterationTimes, calibrate_apart
from jorge_tune.study.plan import StudyPlan
from jorge_tune.study.space import ChoiceParameter, FactorParameter, SearchSpace
from jorge_tune.study.stop import WorkerStops
from jorge_tune.study.storage.open import open_storage
from jorge_tune.study.study import open_study
from jorge_tune.study.study_schema import Objective
from jorge_tune.study.worker import Worker, WorkerSettings, measure_first, prepare_costs
from tests.study.empty_runs import EmptyRuns
from tests.study.small_studies import small_plan, sqlite_at


def choice(path: str, *values, bootstrap) -> ChoiceParameter:
    name = path.rpartition(".")[2]
    return ChoiceParameter(name=name, path=path, labels=values, values=values, bootstrap=bootstrap)


def costly_plan(*more, intervals=(5, 10, 40), **changes) -> StudyPlan:
    """Intervals, block sizes and whatever else, under a budget of 10 %."""
    plan = small_plan(overhead=0.1, **changes)
    lr, _ = plan.space.parameters
    parameters = (
        lr,
        choice("optimizer.refresh_interval", *intervals, bootstrap=10),
        choice("optimizer.block_size", 256, 1024, bootstrap=1024),
        *more,
    )
    return replace(plan, space=SearchSpace(plan.recipe, parameters))


class Calibrations:
    """A cost by block size, and what was asked for."""

    def __init__(self, outcome: str = "interval", refresh: float = 1.0) -> None:
        self.asked, self.outcome, self.refresh = [], outcome, refresh

    def __call__(self, recipe, device, threads, overhead) -> Cost:
        self.asked.append((recipe.optimizer.block_size, recipe.precision, recipe.batch_size, device, threads, overhead))
        refresh = self.refresh if recipe.optimizer.block_size == 1024 else self.refresh / 2
        return Cost(1.02, refresh, 0.01, "a processor", self.outcome, "as scripted")


@pytest.fixture
def opened(tmp_path):
    storage = open_storage(sqlite_at(tmp_path))
    return lambda plan: open_study(storage, plan, lambda name: tmp_path / "runs")


def times(study) -> IterationTimes:
    return IterationTimes(study, device="cpu", threads=1)


def recipe_at(study, **point):
    return study.plan.space.recipe_of({**study.plan.space.bootstrap_point(), **point})


def test_one_calibration_for_each_kind_of_step_and_none_for_rates_and_intervals(opened):
    study, calibrate = opened(costly_plan()), Calibrations()
    costs = times(study)
    costs.measure(calibrate)
    assert calibrate.asked == [(256, "fp32", 128, "cpu", 1, 0.1), (1024, "fp32", 128, "cpu", 1, 0.1)]
    assert costs.missing() == []
    assert times(study).missing() == []  # the study keeps them: another worker measures nothing


def test_batch_and_precision_are_kinds_of_steps_too(opened):
    study = opened(
        costly_plan(choice("batch_size", 64, 128, bootstrap=128), choice("precision", "fp32", "bf16", bootstrap="fp32"))
    )
    calibrate = Calibrations()
    times(study).measure(calibrate)
    assert len(set(calibrate.asked)) == len(calibrate.asked) == 8


def test_the_excess_is_the_time_model_less_the_budget(opened):
    study = opened(costly_plan())
    costs = times(study)
    assert costs.excess(recipe_at(study)) is None  # not measured yet
    costs.measure(Calibrations())
    assert costs.ratio(recipe_at(study, refresh_interval=40)) == pytest.approx(1.02 + 1 / 40)
    assert costs.excess(recipe_at(study, refresh_interval=40)) == pytest.approx(1.02 + 1 / 40 - 1.1)
    assert costs.excess(recipe_at(study, refresh_interval=5, block_size=256)) == pytest.approx(1.02 + 0.5 / 5 - 1.1)


def test_calibrated_seconds_count_the_warm_refreshes(opened):
    """10 ms, plain 1.02 and refresh 1: steps of 2.02 while everything is refreshed, of 1.12 at interval 10 after."""
    study = opened(costly_plan())
    costs = times(study)
    costs.measure(Calibrations())
    recipe = recipe_at(study, refresh_interval=10)
    warm = recipe.optimizer.warm_refreshes
    seconds = costs.training_seconds(recipe)
    assert seconds(warm) == pytest.approx(0.01 * 2.02 * warm)
    assert seconds(warm + 1000) == pytest.approx(0.01 * (2.02 * warm + 1.12 * 1000))
    cold = replace(recipe, optimizer=replace(recipe.optimizer, warm_refreshes=0))
    assert costs.training_seconds(cold)(1) == pytest.approx(0.01 * 2.02)
    assert costs.training_seconds(cold)(1001) == pytest.approx(0.01 * (2.02 + 1.12 * 1000))


def test_a_study_without_a_feasible_interval_says_so_and_goes_on(opened):
    study, said = opened(costly_plan(intervals=(5, 10))), []
    costs = times(study)
    costs.measure(Calibrations(refresh=9.0), said.append)
    assert costs.dropped == "no refresh interval of the space keeps the budget"
    assert said[-1].endswith("without its constraint on the iteration time: " + costs.dropped)
    assert costs.excess(recipe_at(study)) is None
    assert costs.training_seconds(recipe_at(study)) is None
    assert times(study).dropped == costs.dropped
    assert times(study).missing() == []


def test_an_unstable_calibration_is_no_ground_for_a_constraint(opened):
    costs = times(opened(costly_plan()))
    costs.measure(Calibrations(outcome="unstable"))
    assert "unstable" in costs.dropped
    assert "optimizer.block_size 256" in costs.dropped


def test_a_batch_that_is_a_factor_cannot_be_calibrated_and_that_is_said(opened):
    factor = FactorParameter(name="batch_factor", path="batch_size", centre=128, low=0.5, high=2, whole=True)
    costs = times(opened(costly_plan(factor)))
    assert costs.missing() == []
    assert "batch_size is searched as a factor" in costs.dropped


def test_a_study_without_a_constraint_measures_nothing(opened):
    costs = times(opened(small_plan()))
    assert costs.missing() == []
    assert costs.dropped is None
    assert costs.training_seconds(small_plan().recipe) is None


def test_trials_carry_the_constraint_and_its_mirror(opened, tmp_path):
    study = opened(costly_plan(trials=8))
    costs = times(study)
    costs.measure(Calibrations())
    settings = WorkerSettings(device="cpu", threads=1)
    Worker(study, study.enter(tmp_path / "runs"), EmptyRuns(), WorkerStops(), settings, costs).work()
    for trial in study.study.get_trials():
        ratio = costs.ratio(recipe_at(study, **trial.params))
        assert trial.constraints == {"iteration_time": pytest.approx(ratio - 1.1)}
        assert trial.user_attrs["iteration_time"] == pytest.approx(ratio)


@pytest.mark.parametrize(("outcome", "seconds"), [("interval", "calibrated"), ("unstable", "measured")])
def test_a_time_to_target_says_whether_its_seconds_are_calibrated(opened, tmp_path, outcome, seconds):
    study = opened(costly_plan(trials=1, objective=Objective(kind="time-to-target", metric="top1", target=0.3)))
    costs = times(study)
    costs.measure(Calibrations(outcome=outcome))
    settings = WorkerSettings(device="cpu", threads=1)
    Worker(study, study.enter(tmp_path / "runs"), EmptyRuns(), WorkerStops(), settings, costs).work()
    (trial,) = study.study.get_trials()
    assert trial.user_attrs["seconds"] == seconds
    calibrated = 30 * 0.01 * 2.02  # the third evaluation reaches 0.3, ten steps each, all of them warm
    assert trial.value == (pytest.approx(calibrated) if seconds == "calibrated" else 3.0)


def test_a_calibration_runs_apart_and_is_interrupted_at_once(opened, tmp_path, monkeypatch):
    monkeypatch.setenv("JORGE_TUNE_CACHE", str(tmp_path / "cache"))
    stops = WorkerStops()
    stops.ask("signal", "stopped by SIGINT")
    study = opened(costly_plan())
    costs = prepare_costs(study, study.enter(tmp_path / "runs"), WorkerSettings(device="cpu", threads=1), stops)
    assert len(costs.missing()) == 2
    assert costs.dropped is None
    stops.close()


def test_what_a_calibration_refuses_is_bad_input_and_a_crash_is_said(monkeypatch):
    recipe = replace(small_plan().recipe, task=None)
    with pytest.raises(InputError, match="has no task"):
        calibrate_apart(recipe, "cpu", 1, 0.1, wait=lambda seconds: False)
    monkeypatch.setattr(calibration_process.sys, "executable", "/bin/false")
    with pytest.raises(JorgeTuneError, match="the calibration failed: exit code 1"):
        calibrate_apart(small_plan().recipe, "cpu", 1, 0.1, wait=lambda seconds: False)


def test_nothing_to_measure_stands_in_no_way(opened, tmp_path):
    study = opened(small_plan())
    assert measure_first(study, tmp_path / "runs", WorkerSettings(device="cpu")) is None


def sleeping(seconds: float) -> bool:
    time.sleep(seconds)
    return False


@pytest.mark.slow
def test_a_real_calibration_runs_apart(tmp_path, monkeypatch):
    """Half a minute of measuring; on a busy machine the answer may be that it was unstable, which is an answer."""
    monkeypatch.setenv("JORGE_TUNE_CACHE", str(tmp_path / "cache"))
    cost = calibrate_apart(small_plan().recipe, "cpu", 1, 0.1, wait=sleeping)
    assert isinstance(cost, Cost)
    assert cost.plain > 0
    assert cost.base_seconds > 0


def test_a_calibration_waits_for_cores_as_runs_do_and_knows_no_secret(tmp_path, monkeypatch):
    """How idle threads wait changes what a refresh costs: the interpreter is one that tells its environment."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("JORGE_TUNE_STORAGE", "postgresql://me:secret@db/studies")
    teller = tmp_path / "python"
    teller.write_text('#!/bin/sh\necho "{\\"input_error\\": \\"$OMP_WAIT_POLICY $JORGE_TUNE_STORAGE\\"}"\n')
    teller.chmod(0o755)
    monkeypatch.setattr(calibration_process.sys, "executable", str(teller))
    with pytest.raises(InputError, match=r"^PASSIVE $"):
        calibration_process.calibrate_apart(small_plan().recipe, "cpu", 1, 0.1, wait=lambda seconds: time.sleep(0.05))
