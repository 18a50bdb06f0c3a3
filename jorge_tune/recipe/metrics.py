"""Metrics: which direction is better, and which values a metric can have. The one place that judges a target.

A score that a task of this package measures is a fraction, a loss is never negative, and a perplexity is e to the power
of a loss. A metric that the package does not know can be anything, and so can every metric of a task of the user's own;
its direction follows from its name, unless the recipe's `task.higher_is_better` says it.
"""

from __future__ import annotations

import re
from typing import Final

from jorge_tune.config.unknown_keys import suggestion
from jorge_tune.recipe.schema import Recipe
from jorge_tune.untrusted import shown

CLASSIFICATION_METRICS: Final = ("top1", "top5", "loss")
_LOWER_IS_BETTER: Final = frozenset({"loss", "perplexity", "error", "mae", "mse", "rmse"})
_FRACTION: Final = re.compile(r"top\d+|mean_iou|pixel_accuracy|box_map|mask_map")
_OTHER_NAMES: Final = {
    "top1": ("accuracy", "acc", "acc1", "acc@1", "top_1", "top-1", "top1_accuracy", "val_accuracy", "val_acc"),
    "top5": ("acc5", "acc@5", "top_5", "top-5", "top5_accuracy"),
    "loss": ("val_loss", "cross_entropy", "nll"),
}


OWN_KINDS: Final = ("python", "command")  # of tasks, whose metrics are the user's own


def is_lower_better(metric: str, recipe: Recipe | None = None) -> bool:
    """Whether smaller values of the metric are better: as the recipe says, else losses, perplexity and errors."""
    if recipe is not None and recipe.task is not None and metric in recipe.task.higher_is_better:
        return not recipe.task.higher_is_better[metric]
    return metric in _LOWER_IS_BETTER or metric.endswith(("_loss", "_error"))


def by_rank(metric: str, recipe: Recipe | None = None) -> tuple[object, ...]:
    """A sort key that puts the best known metric first: top1, other scores, the loss, other losses.

    Of a task of the user's own, what nobody has told the direction of comes last.
    """
    unclear = recipe is not None and is_own_task(recipe) and not is_direction_known(metric, recipe)
    return (metric != "top1", unclear, is_lower_better(metric, recipe), metric != "loss", metric)


def is_direction_known(metric: str, recipe: Recipe) -> bool:
    """Whether the recipe, or a name that the package knows, says which values of the metric are better."""
    is_stated = recipe.task is not None and metric in recipe.task.higher_is_better
    return is_stated or is_lower_better(metric) or _FRACTION.fullmatch(metric) is not None


def is_own_task(recipe: Recipe) -> bool:
    """Whether the metrics are measured by code of the user's own, which may take any values."""
    return recipe.task is not None and recipe.task.kind in OWN_KINDS


def usual_metric(recipe: Recipe) -> str:
    """The metric of the recipe's target, else what suits its task."""
    if recipe.target is not None:
        return recipe.target.metric
    return "top1" if recipe.task is not None and recipe.task.kind == "classification" else "loss"


def target_fault(metric: str, value: float, recipe: Recipe | None = None) -> str | None:
    """Why `value` cannot be a target for `metric`: no run could reach it, or every run would. Else None.

    Args:
        metric: its name.
        value: the target.
        recipe: of the task that measures it; nothing is known of the values of a task of the user's own.

    Example:
        >>> target_fault("top1", 95)
        'must be a fraction for top1, greater than 0 and at most 1, got 95 (95 looks like percent: write 0.95)'
    """
    if recipe is not None and is_own_task(recipe):
        return None
    if _FRACTION.fullmatch(metric) and not 0 < value <= 1:
        percent = f" ({value:g} looks like percent: write {value / 100:g})" if 1 < value <= 100 else ""
        return f"must be a fraction for {metric}, greater than 0 and at most 1, got {value:g}{percent}"
    if metric == "perplexity" and value < 1:
        return f"must be 1 or more for perplexity, which is e to the power of the loss, got {value:g}"
    if is_lower_better(metric) and value <= 0:
        return f"must be greater than 0 for {metric}, got {value:g}"
    return None


def value_fault(metric: str, value: float) -> str | None:
    """Why `metric` cannot have a value, by what its name means to this package; None where it can, or is NaN.

    Example:
        >>> value_fault("top1", 95)
        'must be a fraction for top1, at most 1, got 95 (95 looks like percent: that is 0.95)'
    """
    if _FRACTION.fullmatch(metric) and (value > 1 or value < 0):
        percent = f" ({value:g} looks like percent: that is {value / 100:g})" if 1 < value <= 100 else ""
        return f"must be a fraction for {metric}, at most 1, got {value:g}{percent}"
    return None


def metric_fault(recipe: Recipe, metric: str) -> str | None:
    """Why the recipe's task cannot be judged by a metric; None if no reason is known."""
    if recipe.task is None or recipe.task.kind != "classification" or metric in CLASSIFICATION_METRICS:
        return None
    known = f"{', '.join(CLASSIFICATION_METRICS[:-1])} or {CLASSIFICATION_METRICS[-1]}"
    meant = next((name for name, others in _OTHER_NAMES.items() if metric.lower() in others), None)
    hint = f" (write {meant})" if meant else suggestion(metric, CLASSIFICATION_METRICS)
    return f"must be {known} for a classification, got {shown(metric)}{hint}"
