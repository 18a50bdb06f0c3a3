import csv
import io
import json
import math
from datetime import datetime, timedelta

import optuna
import pytest

from jorge_tune.errors import InputError
from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.recipe.recipe_files import load, write_recipe
from jorge_tune.study.export import copy_to_sqlite, find_trial, recipe_of, to_csv, trials_to_json
from jorge_tune.study.plan import StudyPlan
from jorge_tune.study.study_schema import Objective
from jorge_tune.study.trial_rows import TrialRow, read_rows
from tests.study.planning.spaces import small_space
from tests.training.small_recipes import digits_recipe


def plan():
    made = bootstrap(digits_recipe())
    return StudyPlan(
        name="digits",
        recipe=made.recipe,
        baseline=digits_recipe(),
        space=small_space(),
        objective=Objective(kind="best", metric="top1"),
        derivations=made.derivations,
    )


def study(storage=None, name="digits"):
    """Four trials: complete, infeasible and diverged, pruned, and one that waits."""
    found = optuna.create_study(direction="maximize", storage=storage, study_name=name)
    space = small_space().distributions()
    start = datetime(2026, 1, 2, 3, 4, 5)
    ends = [("COMPLETE", 0.5, 1.0, None), ("COMPLETE", -math.inf, 2.0, 5), ("PRUNED", None, 0.7, 20)]
    for state, value, lr, interval in ends:
        trial = optuna.trial.create_trial(
            state=optuna.trial.TrialState[state],
            value=value,
            params={"lr_factor": lr, "refresh_interval": interval},
            distributions=space,
            user_attrs={"diverged": True, "reason": "loss became nan, at step 7"} if value == -math.inf else {},
            system_attrs={"constraints:iteration_time": 0.25 if interval == 5 else -0.1},
            intermediate_values={1: 0.2, 2: 0.3},
        )
        trial.datetime_start, trial.datetime_complete = start, start + timedelta(seconds=90)
        found.add_trial(trial)
    found.enqueue_trial({"lr_factor": 1.5, "refresh_interval": 20})
    return found


def test_a_csv_holds_every_trial_its_point_and_its_recipes_values():
    text = to_csv(read_rows(study()), small_space())
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [line["state"] for line in lines] == ["complete", "complete", "pruned", "waiting"]
    assert [line["value"] for line in lines] == ["0.5", "-inf", "", ""]
    assert [line["optimizer.lr"] for line in lines] == ["0.1", "0.2", "0.07", "0.15"]
    assert [line["refresh_interval"] for line in lines] == ["", "5", "20", "20"]
    assert [line["feasible"] for line in lines] == ["True", "False", "True", "True"]
    assert lines[1]["reason"] == "loss became nan, at step 7"
    assert lines[1]["constraint_iteration_time"] == "0.25"
    assert lines[0]["seconds"] == "90.0"


def test_a_csv_of_no_trials_has_its_headings():
    assert to_csv([], small_space()).startswith("number,state,value,lr_factor,refresh_interval,optimizer.lr,")


def test_the_trials_as_data_are_json():
    data = json.loads(json.dumps(trials_to_json(read_rows(study()), small_space()), allow_nan=False))
    assert data[1]["value"] == "-inf"
    assert data[1]["attributes"] == {"diverged": True, "reason": "loss became nan, at step 7"}
    assert data[0]["started"] == "2026-01-02T03:04:05"
    assert data[3]["values"] == {"optimizer.lr": 0.15, "optimizer.refresh_interval": 20}


def test_a_recipe_from_a_trial_reads_back_and_carries_its_reasons(tmp_path):
    row = find_trial(read_rows(study()), 1, "digits")
    recipe, derivations = recipe_of(row, plan())
    write_recipe(tmp_path / "one.yaml", recipe, derivations)
    text = (tmp_path / "one.yaml").read_text()
    assert "lr: 0.2  # bootstrapped 0.1 x 2 (trial 1 of study digits)" in text
    assert "refresh_interval: 5  # searched, instead of the bootstrapped null (trial 1 of study digits)" in text
    assert "(Jorge, Eq. 9)" in text
    again = load(tmp_path / "one.yaml").recipe
    assert again == recipe
    assert (again.name, again.optimizer.lr, again.optimizer.refresh_interval) == ("small-jorge-trial-1", 0.2, 5)


def test_the_bootstraps_recipe_keeps_the_bootstraps_reasons():
    recipe, derivations = recipe_of(find_trial(read_rows(study()), 0, "digits"), plan())
    assert recipe.optimizer == plan().recipe.optimizer
    assert derivations == plan().derivations


def test_a_trial_that_is_not_there_or_has_no_values_yet_is_refused():
    with pytest.raises(InputError, match="study digits has no trial 9; it has 0 to 3"):
        find_trial(read_rows(study()), 9, "digits")
    with pytest.raises(InputError, match="study digits has no trial 0; it has none yet"):
        find_trial([], 0, "digits")
    with pytest.raises(InputError, match="trial 4 of study digits is waiting: it has no values yet"):
        recipe_of(TrialRow(4, "waiting"), plan())


def test_an_sqlite_copy_is_the_study_and_is_never_put_over_a_file_unasked(tmp_path):
    storage = optuna.storages.InMemoryStorage()
    names = ["digits", "digits.confirm"]
    originals = [study(storage, name) for name in names]
    originals[0].set_user_attr("jorge:verdict", {"best": 1})
    path = tmp_path / "copy.db"
    copy_to_sqlite(storage, names, path)
    for original in originals:
        copied = optuna.load_study(study_name=original.study_name, storage=f"sqlite:///{path}")
        assert read_rows(copied) == read_rows(original)
        assert [t.intermediate_values for t in copied.trials] == [t.intermediate_values for t in original.trials]
        assert copied.user_attrs == original.user_attrs
        copied._storage._backend.engine.dispose()
    before = path.read_bytes()
    with pytest.raises(InputError, match="exists already; give another name, or --force"):
        copy_to_sqlite(storage, names, path)
    assert path.read_bytes() == before
    copy_to_sqlite(storage, names[:1], path, force=True)
    assert path.read_bytes() != before
    assert [file.name for file in tmp_path.iterdir()] == ["copy.db"]
