"""A diagnosis of real runs: undisturbed, honest about what it changed, left out and could not measure."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from jorge_tune.diagnose.diagnose import DiagnosisSettings, as_jorge, diagnose, observe_run
from jorge_tune.diagnose.observe import BlockChoice
from jorge_tune.errors import InputError, TrainingError
from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.recipe.recipe_files import override
from jorge_tune.recipe.schema import AdamWSection, CustomOptimizerSection, ShampooSection
from jorge_tune.runs.stop_request import StopRequest
from jorge_tune.training.checkpoint import load_checkpoint
from jorge_tune.training.runner import train
from tests.training.small_recipes import digits_recipe

SHORT = DiagnosisSettings(steps=12, every=5, refreshes=0, device="cpu")


def jorge_recipe(*assignments):
    return override(bootstrap(digits_recipe()).recipe, assignments)


@pytest.fixture(scope="module")
def diagnosis():
    return diagnose(digits_recipe(), SHORT)


@pytest.mark.parametrize("form", ["series", "congruence"])
def test_the_run_is_bitwise_the_one_that_train_makes(tmp_path, form):
    """Twelve steps: over an epoch's end at nine, with dropout, so that random numbers matter."""
    recipe = jorge_recipe(f"optimizer.form={form}", "optimizer.warm_refreshes=3")
    state = torch.get_rng_state()
    run = observe_run(recipe, SHORT)
    assert torch.equal(state, torch.get_rng_state())
    train(recipe, tmp_path / "run", device="cpu", max_steps=12)
    trained = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert trained is not None
    for mine, theirs in zip(run.model.state_dict().items(), trained.model.items(), strict=True):
        assert mine[0] == theirs[0]
        assert torch.equal(mine[1], theirs[1])
    states = run.optimizer.state_dict()["state"], trained.optimizer["state"]
    assert [list(state) for state in states[0].values()] == [list(state) for state in states[1].values()]
    for mine, theirs in zip(states[0].values(), states[1].values(), strict=True):
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_what_it_holds(diagnosis):
    assert (diagnosis.outcome, diagnosis.reason, diagnosis.steps) == ("finished", "", 12)
    assert (diagnosis.recipe, diagnosis.form, diagnosis.device) == ("small-jorge", "series", "cpu")
    assert diagnosis.measured_steps == [1, 5, 10, 12]
    assert [(block.name, block.rows, block.columns) for block in diagnosis.blocks] == [
        ("1.weight", 16, 64),
        ("4.weight", 10, 16),
    ]
    assert all(len(block.measured) == 4 for block in diagnosis.blocks)
    for block in diagnosis.blocks:
        for refreshes in block.refreshes.values():
            assert [refresh.step for refresh in refreshes] == list(range(1, 13))
    assert diagnosis.trace.steps == tuple(range(1, 13))
    assert diagnosis.trace.loss[-1] < diagnosis.trace.loss[0]
    assert all(ratio > 0 for ratio in diagnosis.trace.graft_ratio)
    first, *_, last = (diagnosis.cosines("jorge", "exact", step) for step in diagnosis.measured_steps)
    assert min(first) > 0.99
    assert min(last) > 0.9
    weighted = diagnosis.step_cosine("jorge", "exact", 12)
    assert min(last) <= weighted <= max(last)
    assert diagnosis.spread_of("asymmetry", 1).high < 1e-5
    assert diagnosis.quadratics == ()


def test_plain_data(diagnosis):
    data = diagnosis.to_json()
    reading = data["blocks"][0]["readings"][-1]
    assert reading["cosines"]["jorge"]["exact"] == diagnosis.blocks[0].readings[-1].cosines["jorge"]["exact"]
    assert reading["sides"]["left"]["mass"][4] < 1
    first = data["blocks"][0]["refreshes"]["left"][0]
    assert (first["step"], first["b2"]) == (1, pytest.approx(0.5, rel=1e-12))  # relative eps 1


def test_an_sgd_or_adamw_recipe_is_bootstrapped_and_that_is_said(diagnosis):
    assert diagnosis.notes == ("the recipe trains with sgd, so the Jorge recipe bootstrapped from it was diagnosed",)
    sgd = digits_recipe()
    assert as_jorge(sgd)[0] == bootstrap(sgd).recipe
    adamw = replace(sgd, optimizer=AdamWSection(lr=1e-3))
    assert as_jorge(adamw)[0].optimizer.graft == "adamw"
    assert as_jorge(bootstrap(sgd).recipe)[1] == []


@pytest.mark.parametrize("optimizer", [ShampooSection(lr=0.1), CustomOptimizerSection(name="torch.optim:Adam", lr=0.1)])
def test_other_optimizers_are_refused(optimizer):
    with pytest.raises(
        InputError, match=re.escape(f"must be jorge, or sgd or adamw to bootstrap from, got '{optimizer.name}'")
    ):
        diagnose(digits_recipe(optimizer=optimizer), SHORT)


def test_a_recipe_without_a_task_is_refused():
    with pytest.raises(InputError, match=r"task\.model: the recipe 'small-jorge' names no model"):
        diagnose(digits_recipe(task=None), SHORT)


@pytest.mark.parametrize("numbers", [{"steps": 0}, {"every": 0}])
def test_counts_below_one_are_refused(numbers):
    with pytest.raises(InputError, match="steps and every must be 1 or more"):
        diagnose(digits_recipe(), replace(SHORT, **numbers))


def test_more_steps_than_the_recipe_has_are_cut_and_that_is_said():
    told = []
    found = diagnose(jorge_recipe(), replace(SHORT, steps=100, every=30), progress=told.append)
    assert {progress.event for progress in told} == {"start", "step", "epoch"}  # nothing is evaluated
    assert (found.outcome, found.steps, found.measured_steps) == ("finished", 18, [1, 18])
    assert found.notes == ("100 steps were asked for, but the recipe's training has only 18",)


def test_what_is_left_out_is_said():
    found = diagnose(jorge_recipe(), replace(SHORT, steps=2, choice=BlockChoice(max_side=20)))
    assert [block.name for block in found.blocks] == ["4.weight"]
    assert found.notes == ("left out: 1.weight (16 x 64) has a side above 20",)


def test_a_diverged_run_keeps_what_was_read_before():
    found = diagnose(jorge_recipe("optimizer.lr=1e30"), replace(SHORT, every=1))
    assert found.outcome == "diverged"
    assert re.fullmatch(r"the loss was first not finite at step \d+", found.reason)
    assert found.steps < 12
    assert found.measured_steps[0] == 1
    assert [len(block.readings) for block in found.blocks] == [found.steps] * 2
    missing = sum(bool(r.missing) for r in found.blocks[0].readings)
    assert missing > 0
    assert f"1.weight: {missing} of {found.steps} readings are missing: the gradient is not finite" in found.notes


def test_a_run_that_breaks_off_is_an_error():
    recipe = jorge_recipe("optimizer.lr=1e30", "optimizer.nonfinite=raise")
    with pytest.raises(TrainingError, match=r"the training broke off after step \d+: .*gradient is not finite"):
        diagnose(recipe, SHORT)


def test_an_interrupted_run_is_an_outcome():
    stop = StopRequest()

    def ask(progress):
        assert progress.total_steps == 12
        if progress.step == 6:
            stop.ask("stopped by the test")

    found = diagnose(jorge_recipe(), replace(SHORT, refreshes=5), progress=ask, stop=stop)
    assert (found.outcome, found.reason, found.steps) == ("interrupted", "stopped by the test", 6)
    assert found.measured_steps == [1, 5]
    assert found.quadratics == ()
