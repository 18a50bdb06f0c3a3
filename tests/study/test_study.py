"""Studies in their storage: made once, opened as what they were, told to stop."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from optuna.trial import TrialState

import jorge_tune
from jorge_tune.errors import InputError
from jorge_tune.study.storage.open import open_storage
from jorge_tune.study.stored_plan import plan_from_json
from jorge_tune.study.study import RECORD, StudyStopRequest, add_point, join_study, open_study, study_names
from jorge_tune.study.study_schema import Objective
from tests.study.small_studies import small_plan, sqlite_at


@pytest.fixture
def storage(tmp_path):
    return open_storage(sqlite_at(tmp_path))


@pytest.fixture
def runs(tmp_path):
    return lambda name: tmp_path / "runs" / name


def test_trial_0_is_the_bootstrap_and_waits(storage, runs):
    opened = open_study(storage, small_plan(), runs)
    (trial,) = opened.study.get_trials()
    assert trial.state is TrialState.WAITING
    assert trial.system_attrs["fixed_params"] == {"lr_factor": 1.0, "refresh_interval": 10}
    assert opened.study.direction.name == "MAXIMIZE"
    assert opened.enter(runs("small")).is_shared


def test_directions_follow_the_objective(storage, runs):
    plan = small_plan(objective=Objective(kind="epochs-to-target", metric="top1", target=0.9))
    assert open_study(storage, plan, runs).study.direction.name == "MINIMIZE"


def test_a_study_is_gone_on_with_and_a_worker_elsewhere_gets_the_same_plan(storage, runs):
    made = open_study(storage, small_plan(), runs)
    again = open_study(storage, small_plan(trials=9, sampler="tpe", pruner="median"), runs)
    assert (again.study_id, again.name, again.folder) == (made.study_id, made.name, made.folder)
    assert len(again.study.get_trials()) == 1
    joined = join_study(storage, "small")
    assert joined.plan == small_plan(trials=9, sampler="tpe", pruner="median")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seeds": (0, 1)}, "seeds"),
        ({"objective": Objective(kind="final", metric="top1")}, "objective.kind"),
        ({"overhead": 0.2}, "overhead"),
        ({"baseline": replace(small_plan().recipe, epochs=7)}, "baseline.name"),
        ({"epochs": 3}, "recipe.epochs"),
    ],
)
def test_another_study_of_the_name_is_refused_and_what_differs_is_named(storage, runs, change, named):
    open_study(storage, small_plan(), runs)
    refusal = rf"study small exists already and differs \({named}: .*give another --name, or --branch"
    with pytest.raises(InputError, match=refusal):
        open_study(storage, small_plan(**change), runs)
    assert study_names(storage) == ["small"]


def test_another_space_is_refused(storage, runs):
    plan = small_plan()
    wider = replace(plan.space, parameters=(replace(plan.space.parameters[0], high=8.0), plan.space.parameters[1]))
    open_study(storage, plan, runs)
    with pytest.raises(InputError, match=r"space\.optimizer\.lr"):
        open_study(storage, replace(plan, space=wider), runs)


def test_another_version_is_refused(storage, runs, monkeypatch):
    open_study(storage, small_plan(), runs)
    monkeypatch.setattr(jorge_tune, "__version__", "99.0")
    with pytest.raises(InputError, match=r'version: "[^"]+" in the study, "99\.0" now'):
        open_study(storage, small_plan(), runs)


def test_a_branch_goes_on_beside_it_and_is_found_again(storage, runs):
    open_study(storage, small_plan(), runs)
    changed = small_plan(seeds=(0, 1))
    branch = open_study(storage, changed, runs, on_change="branch")
    assert branch.plan.name == "small-2"
    assert join_study(storage, "small-2").plan == replace(changed, name="small-2")
    again = open_study(storage, changed, runs, on_change="branch")
    assert again.study_id == branch.study_id
    other = open_study(storage, small_plan(seeds=(5,)), runs, on_change="branch")
    assert other.plan.name == "small-3"
    assert study_names(storage) == ["small", "small-2", "small-3"]
    assert branch.enter(runs("small-2")).is_shared


def test_points_added_beyond_the_total_do_not_stand_in_the_way(storage, runs):
    opened = open_study(storage, small_plan(trials=2), runs)
    add_point(opened, opened.plan.space.bootstrap_point())
    add_point(opened, opened.plan.space.bootstrap_point())
    while claim := opened.claims.claim("w", 2):
        opened.claims.finish(claim, TrialState.COMPLETE, [0.5])
    assert len(opened.study.trials) == 3
    assert open_study(storage, small_plan(trials=2), runs).study_id == opened.study_id
    with pytest.raises(InputError, match="trials must be at least 2"):
        open_study(storage, small_plan(trials=1), runs)


def test_fewer_trials_than_are_done_are_refused(storage, runs):
    opened = open_study(storage, small_plan(), runs)
    for _ in range(3):
        claim = opened.claims.claim("w", 4)
        assert opened.claims.finish(claim, TrialState.COMPLETE, [1.0])
    with pytest.raises(InputError, match="trials must be at least 3, the number that study small has ended, got 2"):
        open_study(storage, small_plan(trials=2), runs)
    assert open_study(storage, small_plan(trials=3), runs).plan.trials == 3


def test_a_name_that_is_not_there_tells_those_that_are(storage, runs):
    with pytest.raises(InputError, match="no study 'big' in this storage; it holds none yet"):
        join_study(storage, "big")
    open_study(storage, small_plan(), runs)
    with pytest.raises(InputError, match="no study 'big' in this storage; there are small"):
        join_study(storage, "big")


def test_somebody_elses_study_of_the_name_is_left_alone(storage, runs, monkeypatch):
    monkeypatch.setattr("jorge_tune.study.study._MAKING_SECONDS", 0.1)
    import optuna

    study = optuna.create_study(storage=storage, study_name="small", direction="maximize")
    study.add_trial(optuna.trial.create_trial(value=1.0))
    for open_it in (lambda: join_study(storage, "small"), lambda: open_study(storage, small_plan(), runs)):
        with pytest.raises(InputError, match="was not made by this version of jorge-tune; give another --name"):
            open_it()
    assert len(study.get_trials()) == 1


def test_a_study_whose_maker_died_is_made_to_the_end(storage, runs, monkeypatch):
    monkeypatch.setattr("jorge_tune.study.study._MAKING_SECONDS", 0.1)
    import optuna

    optuna.create_study(storage=storage, study_name="small", direction="maximize")
    opened = open_study(storage, small_plan(), runs)
    assert [trial.state for trial in opened.study.get_trials()] == [TrialState.WAITING]
    assert join_study(storage, "small").plan == small_plan()


def test_a_study_that_died_before_trial_0_gets_it(storage, runs, monkeypatch):
    monkeypatch.setattr("jorge_tune.study.study._MAKING_SECONDS", 0.1)
    monkeypatch.setattr("jorge_tune.study.study._enqueue", lambda *arguments: 0)
    open_study(storage, small_plan(), runs)
    monkeypatch.undo()
    monkeypatch.setattr("jorge_tune.study.study._MAKING_SECONDS", 0.1)
    assert len(join_study(storage, "small").study.get_trials()) == 1


def test_of_many_that_make_a_study_together_one_does(tmp_path, runs):
    storages = [open_storage(sqlite_at(tmp_path)) for _ in range(4)]
    opened = []
    threads = [
        threading.Thread(target=lambda s=storage: opened.append(open_study(s, small_plan(), runs)))
        for storage in storages
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len({(one.study_id, one.name, one.folder) for one in opened}) == 1
    assert len(opened) == 4
    assert len(opened[0].study.get_trials()) == 1
    assert all(one.enter(runs("small")).is_shared for one in opened)


def test_a_point_of_ones_own_is_queued_if_it_is_one(storage, runs):
    opened = open_study(storage, small_plan(), runs)
    assert add_point(opened, {"lr_factor": 2.0, "refresh_interval": 5}) == 1
    with pytest.raises(InputError, match=r"lr_factor must be a factor between 0\.25 and 4"):
        add_point(opened, {"lr_factor": 9.0, "refresh_interval": 5})
    assert len(opened.study.get_trials()) == 2


def test_a_stop_request_is_kept_until_it_is_withdrawn(storage, runs):
    opened = open_study(storage, small_plan(), runs)
    assert opened.stop_request() is None
    opened.request_stop("finish", "asked by `study stop`", exit_code=2)
    assert join_study(storage, "small").stop_request() == StudyStopRequest("finish", "asked by `study stop`", 2)
    opened.withdraw_stop_request()
    assert join_study(storage, "small").stop_request() is None


def test_a_folder_of_another_study_is_refused_before_anything_is_stored(storage, runs, tmp_path):
    open_study(storage, small_plan(), runs)
    with pytest.raises(InputError, match=r"runs/small: holds the runs of another study \(small\)"):
        open_study(storage, small_plan(name="other"), lambda name: runs("small"))
    assert study_names(storage) == ["small"]


def test_a_folder_that_a_study_of_that_name_left_before_its_first_run_is_taken_again(storage, runs):
    opened = open_study(storage, small_plan(), runs)
    storage.delete_study(opened.study_id)
    again = open_study(storage, small_plan(), runs)
    assert again.enter(runs("small")).is_shared
    again.enter(runs("small")).trial(0).mkdir()
    storage.delete_study(again.study_id)
    with pytest.raises(InputError, match=r"holds the runs of another study \(small\), of this storage or an earlier"):
        open_study(storage, small_plan(), runs)


def test_another_folder_than_the_first_is_used_but_not_taken_for_it(storage, runs, tmp_path):
    opened = open_study(storage, small_plan(), runs)
    elsewhere = opened.enter(tmp_path / "scratch")
    assert not elsewhere.is_shared
    assert opened.enter(tmp_path / "scratch") == elsewhere
    assert opened.enter(runs("small")).name == opened.folder


def test_a_damaged_marker_is_said(storage, runs):
    opened = open_study(storage, small_plan(), runs)
    (runs("small") / "study.json").write_text("{")
    with pytest.raises(InputError, match="is damaged; move the directory away, or give another --runs"):
        opened.enter(runs("small"))
    (runs("small") / "study.json").unlink()
    runs("small").rmdir()
    runs("small").write_text("a file")
    with pytest.raises(InputError, match="is a file; a directory is expected"):
        opened.enter(runs("small"))


def test_a_plan_of_another_version_is_refused_in_words(storage, runs):
    opened = open_study(storage, small_plan(), runs)
    record = storage.get_study_system_attrs(opened.study_id)[RECORD]
    for damage in ({"format": 99}, {"space": [{"kind": "factor", "nme": "x"}]}, {"objective": {}}):
        with pytest.raises(InputError, match="study small: its plan cannot be read"):
            plan_from_json({**record["plan"], **damage}, "study small")
