"""The report of a study from plain data: every end of a trial is marked, and nothing is drawn that is not there."""

import json
import math
import time
from datetime import datetime, timedelta

import pytest

from jorge_tune.errors import InputError
from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.reports.page import report_page
from jorge_tune.reports.parts import figures_of
from jorge_tune.reports.report import study_report
from tests.report.report_checks import assert_figures_equal_the_twin, assert_page_stands_alone, drawn_figures
from tests.training.small_recipes import digits_recipe

START = datetime(2026, 1, 1)
ENDS = ("complete", "infeasible", "diverged", "not reached", "pruned", "failed", "running", "waiting")


def trial(number, end="complete", value=None, lr=0.1, interval=10):
    state = end if end in ("pruned", "failed", "running", "waiting") else "complete"
    worst = -math.inf if end in ("diverged", "not reached") else None
    ended = state not in ("running", "waiting")
    point = {} if state == "waiting" else {"lr_factor": lr / 0.1, "refresh_interval": interval}
    attributes = {"diverged": True} if end == "diverged" else {}
    return {
        "number": number,
        "state": state,
        "value": worst if worst is not None else value if state == "complete" else None,
        "point": point,
        "values": {"optimizer.lr": lr, "optimizer.refresh_interval": interval} if point else {},
        "constraints": {},
        "feasible": end != "infeasible",
        "started": None if state == "waiting" else (START + timedelta(minutes=number)).isoformat(),
        "ended": (START + timedelta(minutes=number + 2)).isoformat() if ended else None,
        "seconds": 120.0 if ended else None,
        "attributes": attributes | ({"reason": "out of <memory>"} if end == "failed" else {}),
        "worker": f"w-{number % 3}",
    }


def study(trials, **changes):
    verdict = {
        "sentences": ["Eight trials.", "Single-shot tuning held: nothing was better."],
        "single_shot": {"outcome": "held", "reason": ""},
        "importances": {"shares": {}, "trials": 3, "good": 0, "reason": "3 of at least 15 completed trials"},
        "best": {"number": 1},
        "gains": [],
    }
    return {
        "name": "small",
        "storage": "sqlite:///x.db",
        "objective": "best top1",
        "metric": "top1",
        "target": None,
        "lower_is_better": False,
        "worst": "diverged",
        "total": len(trials),
        "constraint": None,
        "overhead": 0.1,
        "facts": {"sampler": "tpe", "seeds": [0], "hours": None},
        "verdict": verdict,
        "baseline": 0.7,
        "confirmation": {},
        "parameters": [
            {
                "name": "lr_factor",
                "path": "optimizer.lr",
                "bootstrap": 0.1,
                "kind": "factor",
                "low": 0.025,
                "high": 0.4,
            },
            {
                "name": "refresh_interval",
                "path": "optimizer.refresh_interval",
                "bootstrap": 10,
                "kind": "choice",
                "labels": [5, 10, 20],
                "held": 10,
            },
        ],
        "trials": trials,
        "costs": {},
        "constraint_dropped": None,
    } | changes


def report_of(held, **options):
    before = digits_recipe()
    made = bootstrap(before)
    recipes = [("bootstrap", made.recipe, made.derivations), ("baseline", before, ())]
    return study_report(held, recipes, **options).to_json()


def by_key(twin):
    return {figure["key"]: figure for figure in figures_of(twin)}


@pytest.fixture
def mixed():
    return study([trial(number, end, value=0.8 + number / 100) for number, end in enumerate(ENDS)])


def test_the_page_draws_the_numbers_of_the_twin(mixed):
    twin = report_of(mixed)
    page = report_page(twin)
    assert_figures_equal_the_twin(page, twin)
    assert_page_stands_alone(page)
    assert "out of &lt;memory&gt;" in page


def test_the_verdict_comes_first_and_its_sum_first_of_all(mixed):
    twin = report_of(mixed)
    assert twin["verdict"][0] == {"text": "Single-shot tuning held: nothing was better.", "outcome": "held"}
    page = report_page(twin)
    assert page.index('id="verdict"') < page.index("<nav") < page.index('class="plot"')


def test_every_end_is_marked_with_a_look_of_its_own(mixed):
    history = by_key(report_of(mixed))["history"]
    looks = {series["name"]: series["look"] for series in history["series"]}
    assert list(looks) == [
        "best so far",
        "completed",
        "over the constraint",
        "pruned",
        "without a value",
        "diverged",
        "failed",
    ]
    assert len(set(map(str, looks.values()))) == len(looks)
    places = {series["name"]: (series["x"], series["y"], series.get("strip", False)) for series in history["series"]}
    assert places["completed"] == ([0], [0.8], False)
    assert places["over the constraint"] == ([1], [0.81], False)
    assert places["pruned"] == ([4], ["no value"], True)
    assert places["failed"] == ([5], ["no value"], True)


def test_an_infeasible_trial_is_never_the_best_so_far(mixed):
    history = by_key(report_of(mixed))["history"]
    assert history["series"][0]["y"] == [0.8, 0.8]
    assert history["marks"] == [[0.7, "baseline"], [0.8, "bootstrap"]]


@pytest.mark.parametrize(("lower", "expected"), [(False, [0.5, 0.5, 0.9, 0.9]), (True, [0.5, 0.3, 0.3, 0.1])])
def test_the_best_so_far_knows_the_direction(lower, expected):
    values = [0.5, 0.3, 0.9, 0.1]
    held = study([trial(number, value=value) for number, value in enumerate(values)], lower_is_better=lower)
    assert by_key(report_of(held))["history"]["series"][0]["y"] == expected


def test_the_timeline_gives_each_worker_a_lane_and_each_end_a_series(mixed):
    timeline = by_key(report_of(mixed))["timeline"]
    spans = {series["name"]: series for series in timeline["series"]}
    assert "running" in spans
    assert spans["completed"]["x"] == [2.0]
    assert spans["pruned"]["base"] == [4.0]
    assert [text for _, text in timeline["y"]["ticks"]] == ["w-0", "w-1", "w-2"]


def test_many_workers_share_lanes():
    trials = [trial(number, value=0.5) | {"worker": f"w-{number}"} for number in range(60)]
    timeline = by_key(report_of(study(trials)))["timeline"]
    assert len(timeline["y"]["ticks"]) == 2


def test_slices_and_parallel_coordinates_hold_the_points(mixed):
    found = by_key(report_of(mixed))
    rate = {series["name"]: series for series in found["slice-lr-factor"]["series"]}
    assert rate["completed"]["x"] == [0.1]
    assert all(len(series["x"]) == 1 for series in rate.values()), "the waiting trial has no place"
    choice = found["slice-refresh-interval"]
    assert [text for _, text in choice["x"]["ticks"]] == ["5", "10", "20"]
    lines = {series["name"]: series for series in found["parallel"]["series"]}
    assert lines["the best tenth"]["x"] == [0.0, 1.0, 2.0, None]
    assert lines["the best tenth"]["y"][0] == pytest.approx(0.5)


def test_outliers_lie_outside_the_first_view_and_are_counted():
    values = [0.9 + number / 1000 for number in range(18)] + [0.1, 0.12]
    held = study([trial(number, value=value) for number, value in enumerate(values)])
    history = by_key(report_of(held))["history"]
    assert 0.8 < history["y"]["bounds"][0] < 0.9
    assert "2 trials that did worse lie outside the first view" in history["caption"]
    assert 0.1 in next(series["y"] for series in history["series"] if series["name"] == "completed")


@pytest.mark.parametrize("trials", [[], [trial(0, "waiting")], [trial(0, "running")], [trial(0, "failed")]])
def test_a_study_without_a_finished_trial_is_an_honest_page(trials):
    verdict = {
        "sentences": [
            "1 trial in all: 0 completed, 1 not ended.",
            "Single-shot tuning is undecided: no trial has ended.",
        ],
        "single_shot": {"outcome": "undecided", "reason": ""},
        "importances": {
            "shares": {},
            "trials": 0,
            "good": 0,
            "reason": "0 of at least 15 completed trials with a value",
        },
        "best": None,
        "gains": [],
    }
    twin = report_of(study(trials, verdict=verdict, baseline=None))
    page = report_page(twin)
    assert_figures_equal_the_twin(page, twin)
    assert "Nothing to draw: no trial has completed with a value." in page
    assert "importance is not known: 0 of at least 15 completed trials with a value" in page
    assert "? undecided" in page


def test_calibrations_of_the_study_are_a_curve():
    cost = {"plain": 1.02, "refresh": 0.9, "base_seconds": 0.01, "device": "cpu", "outcome": "interval", "reason": "ok"}
    figure = by_key(report_of(study([trial(0, value=0.5)], costs={"abcdef0123": cost})))["calibration"]
    line = figure["series"][0]
    assert dict(zip(line["x"], line["y"], strict=True))[10] == pytest.approx(1.11)
    assert "calibration" not in by_key(report_of(study([trial(0, value=0.5)])))


def test_a_stored_probe_and_calibration_are_drawn(mixed):
    line = {
        "multipliers": [-1.0, 0.0, 1.0],
        "losses": [2.0, 1.0, "inf"],
        "fit": {"level": 1.0, "slope": -1.0, "curvature": 1.0, "optimum": 1.0, "verdict": "convex descent"},
    }
    probe = {
        "recipe": "cnn",
        "points": 3,
        "readings": [{"step": 5, "lr": 0.1, "own": line, "fresh": None}],
        "schedule": [[0, 0.1], [9, 0.0]],
        "walked": [[0, 0.1]],
        "notes": [],
        "words": ["It says so."],
    }
    twin = report_of(mixed, measured={"probe.json": probe})
    found = by_key(twin)
    assert found["probe-1-step-5"]["series"][0]["y"] == [1.0, 0.0]
    parabola = found["probe-1-step-5"]["series"][1]
    assert (parabola["y"][0], parabola["y"][-1]) == (1.5, -0.5)
    assert_figures_equal_the_twin(report_page(twin), twin)


@pytest.mark.parametrize(
    "data",
    [
        {},
        [],
        None,
        {"probe": 3},
        {"readings": [{}], "schedule": [], "points": 3},
        {"readings": 1, "schedule": 2, "points": 3},
    ],
)
def test_what_is_no_measurement_is_refused_by_its_name(mixed, data):
    with pytest.raises(InputError, match=r"^some\.json: "):
        report_of(mixed, measured={"some.json": data})


def test_a_thousand_trials_stay_light():
    trials = [
        trial(number, ENDS[number % 6], value=0.9 - (number * 7 % 100) / 1000, lr=0.03 + number / 3000)
        for number in range(1000)
    ]
    began = time.process_time()  # however busy the machine is
    twin = report_of(study(trials))
    page = report_page(twin)
    seconds = time.process_time() - began
    assert seconds < 10
    assert len(page) < 15_000_000
    for key, figure in drawn_figures(page).items():
        assert len(figure["data"]) <= 12, key
    assert page.count("<tr>") > 1000
    assert_figures_equal_the_twin(page, twin)
    assert json.loads(json.dumps(twin, allow_nan=False))["data"]["study"]["trials"][2]["value"] == "-inf"


def test_a_workers_name_is_no_link_in_the_timeline():
    trials = [trial(0, "complete") | {"worker": "<a href='https://x'>w</a>\x1b[31m"}]
    (series,) = by_key(report_of(study(trials)))["timeline"]["series"]
    assert series["y"] == ["&lt;a href='https://x'&gt;w&lt;/a&gt;\\x1b[31m"]
