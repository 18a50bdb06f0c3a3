import json
import math
import re

import pytest

from jorge_tune.study.study_verdict import Evidence, headline, judge, sentences
from jorge_tune.study.trial_rows import Importances, TrialRow
from tests.study.planning.spaces import small_space

LIMIT = "iteration time <= 1.1 x the baseline's"


def row(number, value, lr=1.0, interval=None, state="complete", excess=None, **attributes):
    return TrialRow(
        number=number,
        state=state,
        value=value,
        point={"lr_factor": lr, "refresh_interval": interval},
        constraints={} if excess is None else {"iteration_time": excess},
        attributes=attributes,
    )


def verdict(rows, confirmation=None, **changes):
    given = {
        "study": "digits",
        "objective": "best top1",
        "lower_is_better": False,
        "total": len(rows),
        "rows": rows,
        "space": small_space(),
        "importances": Importances({"lr_factor": 0.8, "refresh_interval": 0.2}, 40, 5),
        "confirmation": {name: dict(enumerate(values, start=1)) for name, values in (confirmation or {}).items()},
    }
    return judge(Evidence(**{**given, **changes}))


def said(found, start):
    """The one sentence that starts so."""
    (line,) = [line for line in sentences(found) if line.startswith(start)]
    return line


def test_the_bootstraps_rank_counts_equals_and_puts_pruned_and_failed_trials_behind():
    rows = [
        row(0, 0.97),
        row(1, 0.98),
        row(2, 0.97),
        row(3, 0.5),
        row(4, None, state="pruned"),
        row(5, None, state="failed"),
    ]
    found = verdict([*rows, row(6, None, state="running"), row(7, None, state="waiting")])
    assert (found.rank.place, found.rank.of, found.rank.equal) == (2, 6, 1)
    assert (found.best.number, found.best.value) == (1, 0.98)
    counts = found.counts
    assert (counts.complete, counts.pruned, counts.failed, counts.unfinished) == (4, 1, 1, 2)
    assert said(found, "The bootstrap (") == (
        "The bootstrap (trial 0) is number 2 of 6 trials that ended, by best top1: 0.97; 1 other reached the same."
    )
    assert said(found, "8 trials") == "8 trials in all: 4 completed, 1 pruned, 1 failed, 2 not finished."


def test_lower_is_better_where_the_objective_says_so():
    found = verdict([row(0, 5.0), row(1, 4.0), row(2, 6.0)], lower_is_better=True)
    assert (found.best.number, found.rank.place) == (1, 2)


def test_equals_leave_the_bootstrap_the_best_and_single_shot_held():
    found = verdict([row(0, 0.98), row(1, 0.98), row(2, 0.9)])
    assert found.best.number == 0
    assert found.single_shot.outcome == "held"
    assert "No trial was better than the bootstrap, so the bootstrap is the best trial." in sentences(found)


def test_the_best_keeps_the_constraint_and_those_that_do_not_are_counted():
    rows = [row(0, 0.95, excess=-0.02), row(1, 0.99, interval=5, excess=0.3), row(2, 0.97, 1.5, 20, excess=0.0)]
    found = verdict(rows, constraint=LIMIT)
    assert (found.best.number, found.counts.infeasible) == (2, 1)
    assert (found.rank.place, found.rank.feasible_better) == (3, 1)
    assert said(found, "3 trials").endswith(f"1 of 3 do not keep {LIMIT}.")
    assert said(found, "The bootstrap (").endswith(f"Only 1 of the better ones keeps {LIMIT}.")
    assert said(found, "The best") == "The best is trial 2: 0.97, at optimizer.lr 0.15, optimizer.refresh_interval 20."


def test_no_feasible_trial_is_an_honest_end():
    found = verdict([row(0, 0.95, excess=0.2), row(1, 0.99, excess=0.3)], constraint=LIMIT)
    assert not found.has_answer
    assert found.single_shot.reason == "no completed trial keeps the constraint"
    assert said(found, "The bootstrap (").endswith(f"It does not keep {LIMIT} itself.")


def test_a_target_that_nobody_reached():
    rows = [row(0, math.inf), row(1, math.inf), row(2, math.inf)]
    found = verdict(rows, lower_is_better=True, worst="did not reach the target", objective="epochs to top1 0.999")
    assert not found.has_answer
    assert found.counts.without_value == 3
    assert (found.single_shot.outcome, found.single_shot.reason) == (
        "undecided",
        "no completed trial reached the target",
    )
    assert said(found, "There is no best") == "There is no best trial: no completed trial reached the target."
    assert found.rank.place == 1
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["bootstrap"]["value"] == "inf"


def test_divergences_are_the_worst_and_differ_from_targets_not_reached():
    found = verdict([row(0, -math.inf, diverged=True), row(1, 0.5)])
    assert found.best.number == 1
    assert (found.counts.diverged, found.counts.without_value) == (1, 0)
    assert found.rank.place == 2
    assert "0.5" in said(found, "The best")
    assert "diverged" in said(found, "The bootstrap (")
    assert verdict([row(0, -math.inf, diverged=True)]).single_shot.reason == "every completed trial diverged"


@pytest.mark.parametrize("state", ["running", "waiting", "failed", "pruned"])
def test_a_bootstrap_without_a_value_has_no_rank(state):
    found = verdict([row(0, None, state=state), row(1, 0.9)])
    assert found.rank is None
    assert found.single_shot.outcome == "undecided"
    assert said(found, "The bootstrap (") == f"The bootstrap (trial 0) has no best top1: it is {state}."


def test_no_trial_at_all():
    found = verdict([])
    assert (found.bootstrap, found.best, found.rank) == (None, None, None)
    assert found.single_shot == verdict([]).single_shot
    assert "no trial has completed" in said(found, "There is no best")


@pytest.mark.parametrize(
    ("others", "outcome", "reason"),
    [
        ((), "undecided", "no other trial has completed or been pruned, so there is nothing to compare"),
        ((row(1, None, state="failed"),), "undecided", "no other trial has completed or been pruned"),
        (
            (row(1, 0.9), row(2, None, state="pruned")),
            "held",
            r"than the bootstrap \(2 of 7 other trials were compared",
        ),
        (tuple(row(n, 0.9) for n in range(1, 8)), "held", "better than the bootstrap$"),
    ],
)
def test_held_takes_somebody_to_compare_with(others, outcome, reason):
    found = verdict([row(0, 0.95), *others], total=8)
    assert found.single_shot.outcome == outcome
    assert re.search(reason, found.single_shot.reason)


def test_a_bootstrap_that_breaks_the_constraint_has_not_held():
    found = verdict([row(0, 0.99, excess=0.1), row(1, 0.9, 2.0, excess=-0.1)], constraint="a budget")
    assert found.single_shot.outcome == "undecided"
    assert "does not keep the constraint itself" in found.single_shot.reason


def test_a_bootstrap_that_does_not_reach_the_target_on_most_seeds_has_not_held():
    """The best trial reaches the target on 4 seeds of 6, the bootstrap on none: the gain has no upper end."""
    not_reached = [math.inf] * 6
    found = verdict(
        [row(0, 9.0), row(1, 5.0, 2.0)],
        {"baseline": not_reached, "bootstrap": not_reached, "best": [4.0, 5.0, 5.0, 6.0, math.inf, math.inf]},
        lower_is_better=True,
    )
    assert found.contest("best", "bootstrap").low <= 0
    assert found.single_shot.outcome == "undecided"
    assert "the bootstrap failed on seeds on which trial 1 did not" in found.single_shot.reason


SEARCH = (row(0, 0.95), row(1, 0.97, 2.0, 20))
BASE = [0.90, 0.91, 0.92, 0.93, 0.94, 0.95]


def test_a_best_trial_that_wins_on_every_confirmation_seed_beats_the_bootstrap():
    bootstrap = [0.91, 0.92, 0.93, 0.94, 0.95, 0.96]
    best = [0.93, 0.945, 0.95, 0.96, 0.97, 0.98]
    found = verdict(SEARCH, {"baseline": BASE, "bootstrap": bootstrap, "best": best})
    assert found.single_shot.outcome == "beaten"
    assert found.contest("best", "bootstrap").median == pytest.approx(0.02)
    assert found.contest("best", "bootstrap").low > 0
    lines = sentences(found)
    assert "On 6 confirmation seeds (1-6), median [lowest, highest]: the baseline 0.925 [0.9, 0.95], " in " ".join(
        lines
    )
    assert said(found, "The bootstrap against the baseline") == (
        "The bootstrap against the baseline: a gain of +0.01 [+0.01, +0.01]; "
        "better on 6, level on 0, worse on 0 of 6 seeds, corrected p = 0.062."
    )
    assert said(found, "Trial 1 against the bootstrap").endswith("of 6 seeds, p = 0.031.")  # the question: uncorrected
    assert said(found, "Single-shot tuning did not hold").endswith("by +0.02 [+0.02, +0.022].")


def test_ties_that_leave_too_few_seeds_to_tell_are_undecided():
    """Five better and one level of six: p cannot be below 0.0625."""
    found = verdict(SEARCH, {"bootstrap": BASE, "best": [BASE[0], *(value + 0.01 for value in BASE[1:])]})
    assert found.single_shot.outcome == "undecided"
    assert found.single_shot.reason.startswith("trial 1 is better on 5 confirmation seeds and level on the others")


def test_a_best_trial_that_diverges_on_every_confirmation_seed_leaves_the_bootstrap_held():
    found = verdict(SEARCH, {"bootstrap": BASE, "best": [-math.inf] * 6})
    assert found.single_shot.outcome == "held"
    assert said(found, "Trial 1 against the bootstrap").startswith(
        "Trial 1 against the bootstrap: the gain is undefined, because one of them has no value on most seeds; "
    )


def test_the_ranks_decide_for_whom_and_not_the_counts():
    """More seeds against the best trial, but all of them by little."""
    gains = [-0.001 * n for n in range(1, 11)] + [0.02 + 0.001 * n for n in range(9)]
    bootstrap = [0.9] * 19
    found = verdict(SEARCH, {"bootstrap": bootstrap, "best": [b + g for b, g in zip(bootstrap, gains, strict=True)]})
    gain = found.contest("best", "bootstrap")
    assert (gain.wins, gain.losses, gain.leaning) == (9, 10, 1)


def test_one_loss_in_six_is_not_significant_whatever_the_interval_says():
    best = [value + gain for value, gain in zip(BASE, [-0.001, 0.02, 0.02, 0.02, 0.02, 0.02], strict=True)]
    found = verdict(SEARCH, {"bootstrap": BASE, "best": best})
    gain = found.contest("best", "bootstrap")
    assert (gain.p, gain.low > 0) == (4 / 64, True)
    assert found.single_shot.outcome == "held"


def test_a_best_trial_whose_lead_is_gone_on_other_seeds_leaves_the_bootstrap_held():
    bootstrap = [0.91, 0.94, 0.93, 0.94, 0.95, 0.96]
    best = [0.93, 0.92, 0.95, 0.92, 0.97, 0.94]
    found = verdict(SEARCH, {"bootstrap": bootstrap, "best": best})
    assert found.single_shot.outcome == "held"
    assert "the best trial is at most 0.02 better" in said(found, "Single-shot tuning held")


def test_a_best_trial_that_is_worse_on_other_seeds_is_at_most_0_better():
    found = verdict(SEARCH, {"bootstrap": BASE, "best": [value - 0.01 for value in BASE]})
    assert found.single_shot.outcome == "held"
    assert "the best trial is at most 0 better" in said(found, "Single-shot tuning held")


@pytest.mark.parametrize(
    ("confirmation", "reason"),
    [
        ({}, "trial 1 was better in the search but was not run on confirmation seeds"),
        ({"bootstrap": BASE}, "trial 1 was better in the search but was not run on confirmation seeds"),
        ({"bootstrap": BASE[:5], "best": BASE[:5]}, "5 confirmation seeds cannot rule out chance: 6 can"),
    ],
)
def test_without_enough_seeds_nothing_is_decided(confirmation, reason):
    found = verdict(SEARCH, confirmation)
    assert (found.single_shot.outcome, found.single_shot.reason) == ("undecided", reason)
    assert said(found, "Single-shot tuning is undecided") == f"Single-shot tuning is undecided: {reason}."


def test_a_confirmation_in_which_one_diverges_is_counted_not_crashed():
    found = verdict(SEARCH, {"bootstrap": [-math.inf, *BASE[1:]], "best": BASE})
    assert found.contest("best", "bootstrap").wins == 1
    assert "no number" in said(found, "On 6 confirmation seeds")
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["contenders"][0]["values"]["1"] == "-inf"


def test_a_best_trial_on_the_edge_of_the_space_is_warned_of():
    (warning,) = [line for line in sentences(verdict(SEARCH)) if line.startswith("Warning")]
    assert "optimizer.lr: 0.2 is at the upper end of its range" in warning
    assert not [line for line in sentences(verdict([row(0, 0.9), row(1, 0.95, 1.2, 20)])) if "Warning" in line]


def test_importances_in_words_or_why_not():
    assert "What sets the 5 best of 40 trials apart: lr_factor 80 %, refresh_interval 20 %." in sentences(
        verdict(SEARCH)
    )
    found = verdict(SEARCH, importances=Importances({}, 2, reason="2 of at least 15 completed trials with a value"))
    assert said(found, "Importance") == (
        "Importance of the parameters: unknown (2 of at least 15 completed trials with a value)."
    )


def test_all_of_it_is_plain_data():
    data = verdict(
        SEARCH, {"baseline": BASE, "bootstrap": BASE, "best": BASE}, baseline=0.94, notes=["a note"]
    ).to_json()
    again = json.loads(json.dumps(data, allow_nan=False))
    assert again["best"]["values"] == {"optimizer.lr": 0.2, "optimizer.refresh_interval": 20}
    assert again["contenders"][2]["spread"]["median"] == pytest.approx(0.925)
    assert again["gains"][2]["p_corrected"] == 1.0
    assert again["notes"] == ["a note"]


@pytest.mark.parametrize(
    ("baseline", "bootstrap", "expected"),
    [
        (
            [0.9] * 6,
            [0.95] * 6,
            "The bootstrap is better than the baseline: best top1 0.95 against 0.9, better on 6 of 6 "
            "confirmation seeds (p = 0.031).",
        ),
        (
            [0.95] * 6,
            [0.9] * 6,
            "The bootstrap is worse than the baseline: best top1 0.9 against 0.95, worse on 6 of 6 confirmation seeds "
            "(p = 0.031).",
        ),
        (
            [0.9] * 6,
            [0.95] * 4 + [0.85] * 2,
            "Whether the bootstrap is better than the baseline is undecided: best top1 0.95 against 0.9, better on 4, "
            "level on 0, worse on 2 of 6 confirmation seeds (p = 0.69, which does not rule out chance).",
        ),
        (
            [0.9] * 2,
            [0.95] * 2,
            "The bootstrap is better than the baseline: best top1 0.95 against 0.9, better on 2 of 2 confirmation "
            "seeds; 2 seeds cannot rule out chance.",
        ),
        (
            [0.9, 0.95],
            [0.95, 0.9],
            "Whether the bootstrap is better than the baseline is undecided: best top1 0.925 against 0.925, better on "
            "1, level on 0, worse on 1 of 2 confirmation seeds; 2 seeds cannot rule out chance.",
        ),
        (
            [0.9],
            [0.9],
            "The bootstrap and the baseline are level on 1 confirmation seed (best top1 0.9 against 0.9).",
        ),
        (
            [0.9],
            [-math.inf],
            "The bootstrap is worse than the baseline: best top1 no number against 0.9, worse on 1 of 1 confirmation "
            "seed; 1 seed cannot rule out chance.",
        ),
    ],
)
def test_the_headline_sets_the_bootstrap_against_the_baseline(baseline, bootstrap, expected):
    found = verdict([row(0, 0.9), row(1, 0.8, 2.0)], {"baseline": baseline, "bootstrap": bootstrap}, baseline=0.9)
    assert headline(found) == expected
    assert sentences(found)[0] == expected
    assert sentences(found)[1].startswith("Single-shot tuning")


def test_a_headline_before_anything_is_confirmed():
    assert headline(verdict([row(0, 0.95)], baseline=0.9)) == (
        "Nothing is confirmed yet: on the seeds of the search alone, best top1 is 0.95 for the bootstrap and 0.9 for "
        "the baseline."
    )
    assert headline(verdict([row(0, 0.95)])) == (
        "No baseline has finished, so there is nothing to compare the bootstrap with."
    )
    assert headline(verdict([row(0, None, state="failed")], baseline=0.9)) == (
        "The bootstrap is not compared with the baseline yet: trial 0 is failed."
    )
