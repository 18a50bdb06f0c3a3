"""Studies of recipes with code of a user's own: real runs in forked processes, and code that a worker may not take."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jorge_tune.errors import InputError
from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.recipe.user_code import NO_PLACES, CodePlaces, check_findable, places_of, restricted_to
from jorge_tune.recipe.user_imports import load_object, user_code
from jorge_tune.study.constraint import IterationTimes
from jorge_tune.study.jobs.client import RunLauncher
from jorge_tune.study.plan import comparison_plan, recipes_of
from jorge_tune.study.space import ChoiceParameter, SearchSpace
from jorge_tune.study.stop import WorkerStops
from jorge_tune.study.storage.open import open_storage
from jorge_tune.study.stored_plan import plan_from_json, plan_to_json
from jorge_tune.study.study import join_study, open_study
from jorge_tune.study.study_schema import Objective
from jorge_tune.study.trial_rows import rows_of
from jorge_tune.study.worker import WorkerSettings, work_on
from tests.own_code import MODULE, recipe_with_code
from tests.study.small_studies import small_plan, sqlite_at

WIDER = MODULE.replace("def __init__(self, batch_size, width=8", "def __init__(self, batch_size, width=16")


def plan_of(recipe, name="small", **changes):
    """A study of two intervals around the recipe's bootstrap."""
    jorge = bootstrap(recipe).recipe
    interval = ChoiceParameter(
        name="refresh_interval", path="optimizer.refresh_interval", labels=(5, 10), values=(5, 10), bootstrap=10
    )
    settings = {
        "recipe": jorge,
        "baseline": recipe,
        "space": SearchSpace(jorge, (interval,)),
        "name": name,
        "trials": 1,
    }
    return small_plan(**(settings | {"objective": Objective(kind="best", metric="loss")} | changes))


def worked_on(folder, plan, code, launcher=None):
    """The study after a worker has worked on it that found it in its storage, and what the worker said."""
    folder.mkdir(parents=True, exist_ok=True)
    storage = open_storage(sqlite_at(folder))
    open_study(storage, plan, lambda name: folder / "runs")
    opened = join_study(storage, plan.name)
    said = []
    with WorkerStops().listening() as stops:
        settings = WorkerSettings(device="cpu", threads=1, code=code, loggers=("csv",))
        left = work_on(opened, folder / "runs", settings, stops, said.append, server=launcher)
    return opened, left, [message.what for message in said]


def test_two_studies_with_modules_of_one_name_run_each_with_its_own(tmp_path):
    """One worker process and one fork server for both; the plans come from the storage and know no folder."""
    narrow = recipe_with_code(tmp_path / "narrow", epochs=1)
    wide = replace(recipe_with_code(tmp_path / "wide", code=WIDER, epochs=1), name="wide")
    with RunLauncher() as launcher:
        for recipe, size in ((narrow, 99), (wide, 195)):
            plan = plan_of(recipe, name=recipe.name)
            places = places_of(recipes_of(plan))
            folder = tmp_path / f"study-{recipe.name}"
            opened, left, said = worked_on(folder, plan, places, launcher)
            assert left.kind == "done"
            assert [row.state for row in rows_of(opened)] == ["complete"]
            log = next(folder.rglob("log.txt")).read_text()
            assert f"{size} parameters" in log
            assert "validation/loss" in next(folder.rglob("metrics.csv")).read_text()
            module = tmp_path / ("narrow" if size == 99 else "wide") / "own_code.py"
            assert said[0] == f"imports own_code from {module}"


def test_a_comparison_takes_each_contenders_code_and_refuses_two_of_one_name(tmp_path):
    one, other = recipe_with_code(tmp_path / "one", epochs=1), recipe_with_code(tmp_path / "other", epochs=1)
    other = replace(other, name="other")
    plan = comparison_plan("race", {"one": one, "other": other}, [0])
    places = places_of([one, other])
    assert places == CodePlaces((str(tmp_path / "one"), str(tmp_path / "other")), ("own_code",))
    with pytest.raises(InputError, match=r"own_code is in .*one and in .*other, and one study takes its modules"):
        worked_on(tmp_path / "study", plan, places)


def test_a_worker_without_the_code_says_so_and_harms_no_trial(tmp_path):
    plan = plan_of(recipe_with_code(tmp_path / "code"))
    (tmp_path / "elsewhere").mkdir()
    elsewhere = CodePlaces((str(tmp_path / "elsewhere"),))
    with pytest.raises(InputError, match="start the worker in the folder of the module, give --code DIR"):
        worked_on(tmp_path / "study", plan, elsewhere)
    opened = join_study(open_storage(sqlite_at(tmp_path / "study")), plan.name)
    assert [row.state for row in rows_of(opened)] in ([], ["waiting"])
    assert opened.stop_request() is None


@pytest.mark.parametrize(
    "factory", ["os:system", "subprocess:run", "builtins:exec", "torch.utils.cpp_extension:load_inline", "posix:system"]
)
def test_code_of_python_and_of_packages_is_not_taken_from_a_storage(tmp_path, factory):
    recipe = recipe_with_code(tmp_path / "code", f'{{kind: python, factory: "{factory}"}}')
    here = CodePlaces((str(tmp_path / "code"),))
    with pytest.raises(InputError, match=r"lies in .*; a study's workers take code from .*code and PYTHONPATH alone"):
        check_findable(restricted_to(recipe, here))
    top = factory.partition(":")[0].partition(".")[0]
    check_findable(restricted_to(recipe, here._replace(modules=(top,))))  # unless it is allowed by name


@pytest.mark.parametrize("name", ["os.system", "borrowed", "np.save", "partial", "Own"])
def test_what_a_module_of_ones_own_imports_is_not_its_own(tmp_path, name):
    code = MODULE + "\nimport os\nfrom os import system as borrowed\nimport functools\n"
    code += "partial = functools.partial(os.system, 'true')\nclass Own(Task):\n    pass\n"
    recipe = recipe_with_code(tmp_path / "code", f'{{kind: python, factory: "own_code:{name}"}}', code)
    bound = restricted_to(recipe, CodePlaces((str(tmp_path / "code"),)))
    with user_code(bound):
        if name == "Own":
            assert load_object(bound.task.factory, "task.factory").__name__ == "Own"
            return
        with pytest.raises(InputError, match="a study's workers take code from"):
            load_object(bound.task.factory, "task.factory")


def test_pythonpath_counts_as_a_folder_of_ones_own(tmp_path, monkeypatch):
    recipe = recipe_with_code(tmp_path / "code")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    check_findable(restricted_to(recipe, NO_PLACES))


def test_a_plan_keeps_the_direction_of_a_metric_and_no_folder(tmp_path):
    plan = plan_of(
        recipe_with_code(tmp_path),
        objective=Objective(kind="best", metric="fid", higher_is_better=False),
    )
    stored = plan_from_json(plan_to_json(plan), "a test")
    assert stored.objective.direction == "minimize"
    assert Objective(kind="best", metric="fid").direction == "maximize"
    assert places_of(recipes_of(stored)) == CodePlaces((), ("own_code",))
    assert places_of(recipes_of(plan)).folders == (str(tmp_path),)


def test_the_cost_of_a_step_is_that_of_the_code(tmp_path):
    """The key of a calibration follows the digest of the code, where the worker has it."""
    plan = plan_of(recipe_with_code(tmp_path / "code"), overhead=0.1)
    opened = open_study(open_storage(sqlite_at(tmp_path)), plan, lambda name: tmp_path / "runs")
    places = places_of(recipes_of(plan))

    def key():
        [wanted] = IterationTimes(opened, device="cpu", threads=1, code=places).missing()
        return wanted.key

    before = key()
    assert key() == before
    (tmp_path / "code" / "own_code.py").write_text(WIDER)
    assert key() != before
