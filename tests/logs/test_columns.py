"""Which column is what: by names that are given, and by names that speak for themselves."""

from __future__ import annotations

import pytest

from jorge_tune.logs.columns import ColumnPlan
from jorge_tune.logs.rows import LogError, LogRow
from jorge_tune.recipe.schema import MetricsSection


def parts(values, section=None, metric=None, part=None):
    """The metrics of each part."""
    plan = ColumnPlan(section or MetricsSection(), metric)
    return {reading.part: dict(reading.metrics) for reading in plan.readings(LogRow(values, "log:1", part))}


@pytest.mark.parametrize(
    ("column", "part", "name"),
    [
        ("val_loss", "validation", "loss"),
        ("eval/top1", "validation", "top1"),
        ("valid-acc", "validation", "acc"),
        ("Loss/val", "validation", "Loss"),
        ("accuracy/test", "test", "accuracy"),
        ("test_acc1", "test", "acc1"),
        ("train_loss", "train", "loss"),
        ("loss", "train", "loss"),
        ("metrics/mAP50(B)", "validation", "mAP50(B)"),
        ("lr", "train", "lr"),
        ("lr-SGD/pg1", "train", "lr"),
        ("learning_rate", "train", "lr"),
        ("x/lr0", "train", "lr"),
        ("value", "train", "value"),
        ("training/loss", "train", "loss"),
    ],
)
def test_a_name_tells_part_and_metric(column, part, name):
    assert parts({"step": 1, column: 0.5}) == {part: {name: 0.5}}


def test_what_is_no_metric_is_left_out():
    values = {
        "step": 1,
        "eval_runtime": 3.0,
        "eval_samples_per_second": 9.0,
        "eval_loss": 1.0,
        "note": "text",
        "x": None,
    }
    assert parts(values) == {"validation": {"loss": 1.0}}


def test_the_recipes_metric_without_a_part_is_the_validations_unless_it_is_a_loss():
    values = {"epoch": 1, "top1": 0.5, "loss": 1.0}
    assert parts(values, metric="top1") == {"validation": {"top1": 0.5}, "train": {"loss": 1.0}}
    assert parts(values, metric="loss") == {"train": {"top1": 0.5, "loss": 1.0}}


def test_a_part_column_and_a_part_of_the_format_count():
    assert parts({"step": 1, "split": "VAL", "loss": 1.0}) == {"validation": {"loss": 1.0}}
    assert parts({"step": 1, "train_loss": 1.0}, part="test") == {"test": {"train_loss": 1.0}}


def test_columns_that_are_given_are_the_only_ones():
    columns = {"epoch": "E", "top1": "val acc", "train/loss": "tr", "test/top1": "te", "lr": "rate", "seconds": "t"}
    plan = ColumnPlan(MetricsSection(from_="csv", columns=columns, scale={"top1": 0.01}), "top1")
    row = LogRow({"E": "2", "val acc": "50", "tr": "1.5", "te": "40", "rate": "0.1", "t": "9", "val_loss": "1"}, "x:2")
    readings = plan.readings(row)
    assert {r.part: dict(r.metrics) for r in readings} == {
        "validation": {"top1": 0.5},
        "train": {"loss": 1.5, "lr": 0.1},
        "test": {"top1": 0.4},
    }
    assert {(r.epoch, r.step, r.seconds) for r in readings} == {(2.0, None, 9.0)}
    assert list(plan.seen) == list(row.values)


def test_a_step_that_is_named_as_the_epoch_is_no_step():
    plan = ColumnPlan(MetricsSection(from_="tensorboard", columns={"epoch": "step"}))
    (reading,) = plan.readings(LogRow({"step": 3, "val/acc": 0.5}, "x"))
    assert (reading.epoch, reading.step) == (3.0, None)


@pytest.mark.parametrize(
    ("columns", "values", "words"),
    [
        ({"top1": "acc"}, {"epoch": 1, "acc": "high"}, "log:1: acc must be a number, got 'high'"),
        (
            {"part": "p"},
            {"epoch": 1, "p": "both", "val_loss": 1},
            "p must be train, validation or test, got 'both'",
        ),
        ({"epoch": "e"}, {"e": -1, "val_loss": 1}, "log:1: e must be a number of 0 or more, got -1"),
        ({"top1": "acc"}, {"epoch": 1, "acc": 87}, "set task.metrics.scale, as {top1: 0.01}"),
    ],
)
def test_a_given_column_that_does_not_fit_is_told(columns, values, words):
    with pytest.raises(LogError) as error:
        parts(values, MetricsSection(from_="csv", columns=columns))
    assert words in str(error.value)
