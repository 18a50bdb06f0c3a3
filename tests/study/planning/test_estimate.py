"""What a study costs, counted before it starts."""

import dataclasses

import pytest

from jorge_tune.study.estimate import estimate, evaluations_of
from tests.study.planning.study_texts import study


def plan(**changes):
    """10 trials x 2 seeds of 20 epochs."""
    return dataclasses.replace(study(trials="10", seeds="[0, 1]", confirm_seeds="3"), **changes)


def test_runs_are_counted():
    found = estimate(plan())
    assert (found.search_runs, found.baseline_runs, found.confirmation_runs, found.runs) == (20, 2, 9, 31)
    assert (found.steps_per_run, found.seconds) == (None, None)
    alone = estimate(plan(baseline=None))
    assert (alone.baseline_runs, alone.confirmation_runs) == (0, 6)


def test_seconds_are_steps_and_evaluations_over_the_workers():
    found = estimate(plan(), steps_per_epoch=17, iteration_seconds=0.01)
    assert found.steps_per_run == 340
    assert found.seconds == pytest.approx(31 * 3.4)
    with_evaluations = estimate(plan(), steps_per_epoch=17, iteration_seconds=0.01, evaluation_seconds=0.05)
    assert with_evaluations.seconds == pytest.approx(31 * (3.4 + 20 * 0.05))
    two = estimate(plan(), steps_per_epoch=17, iteration_seconds=0.01, workers=2)
    assert two.seconds == pytest.approx((11 + 5) * 3.4)  # 22 and 9 runs


def test_hours_cap_the_search_and_not_the_confirmation():
    capped = estimate(plan(hours=0.01), steps_per_epoch=17, iteration_seconds=0.01)
    assert capped.is_capped
    assert capped.seconds == pytest.approx(36 + 9 * 3.4)
    assert not estimate(plan(hours=1.0), steps_per_epoch=17, iteration_seconds=0.01).is_capped


def test_a_recipe_in_steps_needs_no_epoch():
    the_plan = plan()
    in_steps = dataclasses.replace(the_plan, recipe=dataclasses.replace(the_plan.recipe, epochs=None, steps=100))
    assert estimate(in_steps, iteration_seconds=0.1).seconds == pytest.approx(31 * 10)
    assert evaluations_of(in_steps.recipe) is None


@pytest.mark.parametrize(
    ("epochs", "every", "expected"), [(20, 1, 20), (20, 3, 7), (21, 3, 7), (2, 5, 1)]
)  # every third epoch, and after the last step
def test_evaluations_are_those_of_the_training_loop(epochs, every, expected):
    recipe = plan().recipe
    data = dataclasses.replace(recipe.task.data, evaluate_every=every)
    changed = dataclasses.replace(recipe, epochs=epochs, task=dataclasses.replace(recipe.task, data=data))
    assert evaluations_of(changed) == expected


def test_the_evaluations_of_a_real_run_are_the_estimates(tmp_path):
    from jorge_tune.compare.run_directories import read_run
    from jorge_tune.training.runner import train
    from tests.training.small_recipes import digits_recipe

    recipe = digits_recipe(epochs=3)
    data = dataclasses.replace(recipe.task.data, evaluate_every=2)
    recipe = dataclasses.replace(recipe, task=dataclasses.replace(recipe.task, data=data))
    train(recipe, tmp_path / "run", device="cpu")
    run = read_run(tmp_path / "run")
    assert len(run.evaluations["validation"]) == evaluations_of(recipe) == 2
