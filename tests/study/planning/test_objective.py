import math

import pytest

from jorge_tune.study.study_schema import Objective


@pytest.mark.parametrize(
    ("kind", "metric", "target", "direction", "words"),
    [
        ("best", "top1", None, "maximize", "best top1 (higher is better)"),
        ("final", "loss", None, "minimize", "final loss (lower is better)"),
        ("best", "validation_error", None, "minimize", "best validation_error (lower is better)"),
        ("time-to-target", "top1", 0.97, "minimize", "fewest training seconds until top1 reaches 0.97"),
        ("epochs-to-target", "perplexity", 20.0, "minimize", "fewest epochs until perplexity reaches 20"),
    ],
)
def test_an_objective_knows_its_direction_and_says_itself(kind, metric, target, direction, words):
    objective = Objective(kind=kind, metric=metric, target=target)
    assert objective.direction == direction
    assert objective.worst == (math.inf if direction == "minimize" else -math.inf)
    assert objective.needs_target == (target is not None)
    assert str(objective) == words
