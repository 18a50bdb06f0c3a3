import math
import random

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from jorge_tune.study.trial_rows import FEWEST_TRIALS, importances

SPACE = {"lr": FloatDistribution(0.01, 1.0, log=True), "decay": FloatDistribution(0.1, 10, log=True)}


def study_of(points, value, space=SPACE, direction="maximize"):
    study = optuna.create_study(direction=direction)
    for point in points:
        study.add_trial(optuna.trial.create_trial(params=point, distributions=space, value=value(**point)))
    return study


def points(count):
    generator = random.Random(1)
    return [{"lr": 10 ** generator.uniform(-2, 0), "decay": 10 ** generator.uniform(-1, 1)} for _ in range(count)]


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_parameter_that_decides_comes_first(direction):
    sign = 1 if direction == "maximize" else -1
    study = study_of(points(60), lambda lr, decay: -sign * abs(math.log(lr / 0.1)) + 1e-3 * decay, direction=direction)
    found = importances(study, lower_is_better=direction == "minimize")
    assert next(iter(found.shares)) == "lr"
    assert found.shares["lr"] > 0.7
    assert sum(found.shares.values()) == pytest.approx(1)
    assert (found.trials, found.good, found.reason) == (60, 6, "")


def test_too_few_trials_with_a_value_are_not_enough_and_infinite_or_pruned_ones_do_not_count():
    study = study_of(points(FEWEST_TRIALS - 1), lambda lr, decay: lr)
    for _ in range(20):
        study.add_trial(optuna.trial.create_trial(params=points(1)[0], distributions=SPACE, value=-math.inf))
        study.add_trial(
            optuna.trial.create_trial(params=points(1)[0], distributions=SPACE, state=optuna.trial.TrialState.PRUNED)
        )
    found = importances(study, lower_is_better=False)
    assert found.shares == {}
    assert found.reason == f"{FEWEST_TRIALS - 1} of at least {FEWEST_TRIALS} completed trials with a value"


def test_infinite_values_are_left_aside_where_there_are_enough_others():
    study = study_of(points(40), lambda lr, decay: lr if lr > 0.02 else -math.inf)
    found = importances(study, lower_is_better=False)
    assert found.trials == sum(point["lr"] > 0.02 for point in points(40)) < 40
    assert next(iter(found.shares)) == "lr"


def test_equal_values_say_nothing():
    found = importances(study_of(points(30), lambda lr, decay: 0.5), lower_is_better=False)
    assert found.shares == {}
    assert found.reason == "30 of 30 trials share the best values"


def test_a_parameter_of_one_value_has_no_part():
    space = SPACE | {"decay": FloatDistribution(1, 1)}
    fixed = [point | {"decay": 1.0} for point in points(40)]
    found = importances(study_of(fixed, lambda lr, decay: lr, space), lower_is_better=False)
    assert found.shares == {"lr": 1.0, "decay": 0.0}
    alone = study_of(
        [{"one": 1} for _ in range(20)], lambda one: random.random(), {"one": CategoricalDistribution([1])}
    )
    assert importances(alone, lower_is_better=False).reason == "no parameter sets the good trials apart"


def test_a_study_without_parameters_or_trials():
    assert (
        importances(study_of([{}] * 20, lambda: 0.5, {}), lower_is_better=False).reason
        == "the trials have no parameters"
    )
    assert importances(study_of([], lambda: 0.5), lower_is_better=False).trials == 0


def test_where_pruning_left_few_values_trials_are_ranked_by_a_reading_that_nearly_all_have():
    """Thirty trials, all but four pruned at their third evaluation; the reading follows the rate."""
    study = optuna.create_study(direction="maximize")
    for number, point in enumerate(points(30)):
        whole = number < 4
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.COMPLETE if whole else optuna.trial.TrialState.PRUNED,
                value=0.5 if whole else None,
                params=point,
                distributions=SPACE,
                intermediate_values={step: point["lr"] + 0.01 * step for step in range(1, 9 if whole else 4)},
            )
        )
    found = importances(study, lower_is_better=False)
    assert (found.reading, found.trials, found.good) == (3, 30, 5)
    assert next(iter(found.shares)) == "lr"


def test_readings_that_are_no_numbers_do_not_count():
    study = optuna.create_study(direction="maximize")
    for point in points(20):
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.PRUNED,
                params=point,
                distributions=SPACE,
                intermediate_values={1: -math.inf},
            )
        )
    assert importances(study, lower_is_better=False).reason == "0 of at least 15 completed trials with a value"
