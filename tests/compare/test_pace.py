from jorge_tune.compare.pace import Pace, _read, pace
from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.recipe.schema import JorgeSection
from tests.training.small_recipes import digits_recipe


def test_a_few_steps_tell_the_length_of_an_epoch_and_a_plausible_time(tmp_path):
    recipe = bootstrap(digits_recipe(epochs=4)).recipe
    found = pace(recipe, device="cpu", threads=1)
    assert found.steps_per_epoch == 9
    assert 0 < found.step_seconds < 5
    assert 0 < found.evaluation_seconds < 5
    assert list(tmp_path.iterdir()) == []


def test_a_step_time_is_weighted_by_the_steps_that_refresh_everything():
    """Ten warm steps of 3 s in a run of 40, all others 1 s: 1.5 s in the mean."""
    recipe = digits_recipe(optimizer=JorgeSection(lr=0.1, warm_refreshes=10), epochs=4)
    clock, records = 0.0, []
    for step, seconds in enumerate([9, 3, 3, 7, 1, 1, 1, 1, 1], start=1):
        clock += seconds
        records.append({"kind": "step", "step": step, "epoch": step / 10, "train_seconds": clock})
    records.append({"kind": "evaluation", "step": 9, "evaluation_seconds": 0.25, "part": "validation"})
    assert _read(records, recipe) == Pace(10, 1.5, 0.25)
    assert _read(records, digits_recipe(epochs=4)).step_seconds == 1.0


def test_steps_that_diverge_give_no_pace():
    assert pace(digits_recipe(optimizer=JorgeSection(lr=1e30, graft="none")), device="cpu", threads=1) is None
