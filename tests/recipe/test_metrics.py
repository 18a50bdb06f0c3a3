"""Targets: one rule for the value that each metric can have, wherever a target is given."""

import pytest

from jorge_tune.errors import FaultyFileError
from jorge_tune.recipe.metrics import is_lower_better, target_fault, usual_metric
from jorge_tune.recipe.recipe_files import parse_recipe

RECIPE = """\
name: a
task: {kind: classification, model: {name: mlp}, data: {name: digits}}
optimizer: {name: sgd, lr: 0.1}
epochs: 1
batch_size: 8
"""


@pytest.mark.parametrize(
    ("metric", "value", "told"),
    [
        (
            "top1",
            95,
            "must be a fraction for top1, greater than 0 and at most 1, got 95 (95 looks like percent: write 0.95)",
        ),
        ("top5", 1.5, "got 1.5 (1.5 looks like percent: write 0.015)"),
        ("top1", 950, "at most 1, got 950"),
        ("top1", 0, "greater than 0 and at most 1, got 0"),
        ("top1", -0.5, "got -0.5"),
        ("mean_iou", 66.4, "(66.4 looks like percent: write 0.664)"),
        ("box_map", 37.7, "(37.7 looks like percent: write 0.377)"),
        ("loss", -0.1, "must be greater than 0 for loss, got -0.1"),
        ("val_loss", 0, "must be greater than 0 for val_loss, got 0"),
        ("rmse", -1, "must be greater than 0 for rmse, got -1"),
        ("perplexity", 0.9, "must be 1 or more for perplexity, which is e to the power of the loss, got 0.9"),
    ],
)
def test_a_target_that_no_run_can_reach_or_every_run_has_is_told(metric, value, told):
    what = target_fault(metric, value)
    assert what is not None
    assert what.endswith(told)


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("top1", 0.95),
        ("top1", 1),
        ("loss", 1e-9),
        ("perplexity", 20.0),
        ("perplexity", 1.0),
        ("mine", -3),
        ("bleu", 27),
    ],
)
def test_a_target_within_its_metrics_range_or_of_an_unknown_metric_passes(metric, value):
    assert target_fault(metric, value) is None


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("{metric: top1, value: 95}", "r.yaml:6:24: target.value: must be a fraction for top1"),
        ("{metric: loss, value: -1}", "r.yaml:6:24: target.value: must be greater than 0 for loss, got -1"),
        (
            "{metric: accuracy, value: 0.9}",
            "r.yaml:6:10: target.metric: must be top1, top5 or loss for a classification",
        ),
        ("{metric: accuracy, value: 0.9}", "got 'accuracy' (write top1)"),
        ("{metric: top11, value: 0.9}", "got 'top11' (did you mean 'top1'?)"),
    ],
)
def test_a_recipes_target_is_judged_where_it_stands(target, told):
    with pytest.raises(FaultyFileError) as caught:
        parse_recipe(f"{RECIPE}target: {target}\n", "r.yaml")
    assert told in str(caught.value)


def test_the_usual_metric_is_the_targets_or_the_tasks():
    assert usual_metric(parse_recipe(RECIPE, "r").recipe) == "top1"
    assert usual_metric(parse_recipe(RECIPE + "target: {metric: loss, value: 0.1}\n", "r").recipe) == "loss"
    assert (is_lower_better("loss"), is_lower_better("top1")) == (True, False)
