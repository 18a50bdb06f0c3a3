"""Pruners end what is clearly worse and nothing else, by a run's own number of evaluations."""

import dataclasses
import math

import optuna
import pytest
from optuna.trial import TrialState

from jorge_tune.study.samplers import build_pruner
from tests.study.planning.study_texts import study

EVALUATIONS = 20  # of the digits recipe


def plan(pruner, **changes):
    return dataclasses.replace(study(pruner=pruner, seeds="[0, 1, 2, 3, 4, 5]"), **changes)


def ended_at(qualities, pruner, steps=EVALUATIONS):
    """For each trial the step at which it was pruned, or None; a trial's readings approach its quality."""
    made = optuna.create_study(direction="maximize", pruner=build_pruner(plan(pruner)))
    return [_run(made, lambda step, quality=quality: quality - 1 / step, steps) for quality in qualities]


def _run(made, reading, steps):
    trial = made.ask()
    for step in range(1, steps + 1):
        trial.report(reading(step), step)
        if trial.should_prune():
            made.tell(trial, state=TrialState.PRUNED)
            return step
    made.tell(trial, reading(steps))
    return None


def test_none_prunes_nothing():
    assert ended_at([5, 0, 0, 0, 0, 0, 0], "none") == [None] * 7


def test_the_median_rule_begins_after_a_third_of_a_run_and_five_trials():
    assert ended_at([1, 2, 3, 4, 5, 0, 6, 2.5], "median") == [None] * 5 + [6, None, 6]


def test_halving_asks_at_a_ninth_and_at_a_third_of_a_run():
    pruned = ended_at([10, 9, 8, 7, 11, 6, 12, 5, 13], "asha")
    assert set(pruned) <= {None, 2, 6, 18}
    assert pruned[0] is None
    assert pruned.count(2) >= 4
    assert pruned[-1] is None  # the best so far goes on to the end


def test_hyperband_has_a_bracket_for_each_rung():
    pruner = build_pruner(plan("hyperband"))
    made = optuna.create_study(direction="maximize", pruner=pruner)
    pruned = [_run(made, lambda step, quality=quality: quality - 1 / step, EVALUATIONS) for quality in range(24, 0, -1)]
    brackets = {pruner._get_bracket_id(made, trial) for trial in made.trials}
    assert brackets == {0, 1, 2}
    assert set(pruned) <= {None, 2, 6, 18}
    assert 8 <= sum(step is not None for step in pruned) < 24


def test_a_recipe_in_steps_says_its_evaluations_with_the_steps_of_an_epoch():
    the_plan = plan("hyperband")
    in_steps = dataclasses.replace(the_plan, recipe=dataclasses.replace(the_plan.recipe, epochs=None, steps=340))
    assert build_pruner(in_steps, steps_per_epoch=17)._max_resource == 20
    assert build_pruner(in_steps)._max_resource == "auto"
    assert build_pruner(the_plan)._max_resource == 20


def wilcoxon_after(values, best=(0.9, 0.91, 0.92, 0.93, 0.94, 0.95)):
    """How many seeds of a trial are run before it is pruned against the best trial; None: all."""
    made = optuna.create_study(direction="maximize", pruner=build_pruner(plan("wilcoxon")))
    for per_seed in (best, values):
        trial, pruned = made.ask(), None
        for index, value in enumerate(per_seed):
            trial.report(value, index)
            if trial.should_prune():
                pruned = index + 1
                break
        made.tell(trial, state=TrialState.PRUNED) if pruned else made.tell(trial, sorted(per_seed)[len(per_seed) // 2])
    return pruned


def test_wilcoxon_ends_a_trial_that_is_worse_on_every_seed_after_four():
    assert wilcoxon_after([0.8, 0.81, 0.8, 0.83, 0.84, 0.85]) == 4
    assert wilcoxon_after([0.95, 0.96, 0.97, 0.98, 0.99, 0.99]) is None
    assert wilcoxon_after([0.8, 0.99, 0.8, 0.99, 0.8, 0.99]) is None
    assert wilcoxon_after([0.9, 0.91, 0.92, 0.93, 0.94, 0.95]) is None  # the same values


@pytest.mark.parametrize("odd", [-math.inf, math.nan])
def test_wilcoxon_leaves_what_it_cannot_compare(odd):
    assert wilcoxon_after([0.1, odd, 0.1, 0.1, 0.1, 0.1]) is None
    assert wilcoxon_after([0.1, 0.1, 0.1, 0.1, 0.1, 0.1], best=(0.9, -math.inf, 0.9, 0.9, 0.9, 0.9)) is None


def test_wilcoxon_waits_for_a_trial_to_compare_with():
    made = optuna.create_study(direction="maximize", pruner=build_pruner(plan("wilcoxon")))
    trial = made.ask()
    for index in range(6):
        trial.report(0.1, index)
        assert not trial.should_prune()
