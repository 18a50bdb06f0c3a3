"""The baseline and the confirmation as companion studies of the search, and the verdict that is kept."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from jorge_tune.recipe.recipe_files import parse_recipe
from jorge_tune.study.confirm import companion_studies, conclude, gather, open_baseline, open_confirmation, stored_form
from jorge_tune.study.constraint import Cost, IterationTimes
from jorge_tune.study.jobs.client import ProcessEnd
from jorge_tune.study.status import VERDICT
from jorge_tune.study.storage.open import open_storage
from jorge_tune.study.study import add_point, join_study
from jorge_tune.study.study_schema import Objective
from jorge_tune.study.study_verdict import StudyVerdict
from jorge_tune.study.trial_rows import read_rows
from tests.study.empty_runs import FINISHED, EmptyRuns
from tests.study.searched import SEEDS, Searched, by_rate, confirmed, searched


def test_the_baseline_is_a_study_of_one_trial_on_the_searchs_seeds(tmp_path):
    made, runs = Searched(tmp_path, seeds=(3, 4)), EmptyRuns(by_rate)
    baseline = open_baseline(made.opened, made.runs)
    assert baseline.plan.name == "small.sgd"
    made.work(baseline, runs)
    assert [Path(job.out).name for job in runs.jobs] == ["seed-3", "seed-4"]
    assert {parse_recipe(job.recipe_text, "job").recipe.optimizer.name for job in runs.jobs} == {"sgd"}
    (row,) = read_rows(baseline.study)
    assert row.value == pytest.approx(0.1035)
    assert gather(made.opened).baseline == pytest.approx(0.1035)


def test_no_baseline_is_a_study_without_one(tmp_path):
    made = Searched(tmp_path, baseline=None)
    assert open_baseline(made.opened, made.runs) is None
    assert gather(made.opened).baseline is None


def test_every_contender_runs_every_confirmation_seed_with_its_own_recipe(tmp_path):
    made, runs = searched(tmp_path), EmptyRuns(by_rate)
    confirmation = made.confirmation()
    assert confirmation.plan.name == "small.confirm"
    made.work(confirmation, runs)
    ran = sorted(
        (recipe.optimizer.name, recipe.optimizer.lr, recipe.seed)
        for recipe in (parse_recipe(job.recipe_text, "job").recipe for job in runs.jobs)
    )
    assert ran == sorted(
        (name, lr, seed) for name, lr in (("sgd", 0.1), ("jorge", 0.1), ("jorge", 0.2)) for seed in SEEDS
    )
    for job in runs.jobs:
        assert Path(job.out).name == f"seed-{parse_recipe(job.recipe_text, 'job').recipe.seed}"
    found = conclude(made.opened)
    assert [contender.name for contender in found.contenders] == ["baseline", "bootstrap", "best"]
    for contender, lr in zip(found.contenders, (0.1, 0.1, 0.2), strict=True):
        assert contender.values == pytest.approx({seed: lr + 0.001 * seed for seed in SEEDS})
    assert found.single_shot.outcome == "beaten"
    assert found.contest("best", "bootstrap").median == pytest.approx(0.1)


def test_a_worker_elsewhere_joins_the_confirmation_by_its_name_alone(tmp_path):
    made = searched(tmp_path)
    made.confirmation()
    joined = join_study(open_storage(made.address), "small.confirm")
    assert joined.plan == made.confirmation().plan
    made.work(joined, EmptyRuns(by_rate))
    assert len(conclude(made.opened).contenders) == 3


def test_pairs_are_whole_at_any_time(tmp_path):
    """All contenders run one seed before the next."""
    made = searched(tmp_path)
    order = [row.point["seed"] for row in read_rows(made.confirmation().study)]
    assert order == [seed for seed in SEEDS for _ in range(3)]


def test_a_confirmation_that_was_broken_off_goes_on_without_repeating(tmp_path):
    made = searched(tmp_path)
    first = made.confirmation()
    assert len(read_rows(first.study)) == 18
    assert read_rows(made.confirmation().study) == read_rows(first.study)
    runs = EmptyRuns(by_rate)
    made.work(made.confirmation(), runs)
    made.work(made.confirmation(), runs)
    assert len(runs.jobs) == 18


def test_more_seeds_add_what_is_missing(tmp_path):
    made, runs = confirmed(tmp_path, confirm_seeds=(1, 2)), EmptyRuns(by_rate)
    made.open(trials=4, confirm_seeds=(1, 2, 3))
    made.work(made.confirmation(), runs)
    assert len(runs.jobs) == 9 - 6
    assert [sorted(contender.values) for contender in conclude(made.opened).contenders] == [[1, 2, 3]] * 3


def test_a_better_trial_since_is_confirmed_and_the_earlier_best_left_aside(tmp_path):
    made, runs = confirmed(tmp_path), EmptyRuns(by_rate)
    made.open(trials=5, confirm_seeds=SEEDS)
    add_point(made.opened, {"lr_factor": 3.0, "refresh_interval": 5})
    made.work(made.opened, EmptyRuns(by_rate))
    made.work(made.confirmation(), runs)
    assert len(runs.jobs) == 6
    found = conclude(made.opened)
    assert found.best.number == 4
    assert found.contest("best", "bootstrap").median == pytest.approx(0.2)


def test_a_run_that_failed_is_queued_again(tmp_path):
    made = searched(tmp_path, confirm_seeds=(1,))
    broken = EmptyRuns(
        by_rate, lambda name, start: ProcessEnd("failed", "it broke") if name == "trial-1/seed-1" else FINISHED
    )
    made.work(made.confirmation(), broken)
    confirmation = made.confirmation()
    assert [row.state for row in read_rows(confirmation.study)].count("failed") == 1
    made.work(confirmation, EmptyRuns(by_rate))
    assert [len(contender.values) for contender in conclude(made.opened).contenders] == [1, 1, 1]


def test_where_the_bootstrap_is_the_best_it_runs_once(tmp_path):
    made = Searched(tmp_path, trials=1, confirm_seeds=SEEDS)
    made.search(EmptyRuns(by_rate))
    runs = EmptyRuns(by_rate)
    made.work(made.confirmation(), runs)
    assert len(runs.jobs) == 12
    found = conclude(made.opened)
    assert [contender.name for contender in found.contenders] == ["baseline", "bootstrap"]
    assert found.single_shot.reason == "no other trial has completed or been pruned, so there is nothing to compare"


def test_a_baseline_that_failed_is_said(tmp_path):
    made = Searched(tmp_path, trials=2, confirm_seeds=SEEDS)
    broke = EmptyRuns(by_rate, end=lambda folder, start: ProcessEnd("failed", "ValueError: singular"))
    made.work(open_baseline(made.opened, made.runs), broke)
    made.search(EmptyRuns(by_rate))
    assert "The baseline failed: ValueError: singular." in conclude(made.opened).notes


def test_there_is_nothing_to_confirm_without_seeds_or_without_a_best_trial(tmp_path):
    assert open_confirmation(searched(tmp_path / "a", confirm_seeds=()).opened, lambda name: tmp_path / name) is None
    unreached = Searched(
        tmp_path / "b",
        trials=2,
        confirm_seeds=SEEDS,
        objective=Objective(kind="epochs-to-target", metric="top1", target=0.9),
    )
    unreached.search(EmptyRuns(by_rate))
    assert open_confirmation(unreached.opened, unreached.runs) is None
    found = conclude(unreached.opened)
    assert not found.has_answer
    assert found.why_no_best == "no completed trial reached the target"
    assert found.objective == "epochs to top1 0.9"


def test_the_verdict_is_kept_in_the_storage_as_plain_data_with_its_words(tmp_path):
    made = confirmed(tmp_path)
    found = conclude(made.opened)
    assert isinstance(found, StudyVerdict)
    kept = join_study(open_storage(made.address), "small").study.user_attrs[VERDICT]
    assert kept == json.loads(json.dumps(stored_form(found), allow_nan=False))
    assert kept["single_shot"]["outcome"] == "beaten"
    assert any(sentence.startswith("Single-shot tuning did not hold") for sentence in kept["sentences"])


def test_companion_studies_are_found_once_they_are_made(tmp_path):
    made = Searched(tmp_path, confirm_seeds=(1,))
    assert companion_studies(made.opened) == []
    made.search(EmptyRuns(by_rate))
    made.confirmation()
    assert [study.plan.name for study in companion_studies(made.opened)] == ["small.sgd", "small.confirm"]


def test_calibrated_seconds_are_the_searchs_own_for_every_contender(tmp_path):
    """Ten steps to the target at 10 ms, times 1.02 + 0.5 for the bootstrap, which refreshes at each of them."""
    made = Searched(
        tmp_path,
        trials=1,
        overhead=0.1,
        confirm_seeds=(1,),
        objective=Objective(kind="time-to-target", metric="top1", target=0.05),
    )
    times = IterationTimes(made.opened, device="cpu", threads=1)
    times.measure(lambda *request: Cost(1.02, 0.5, 0.01, "a processor", "interval", "as scripted"))
    made.work(made.opened, EmptyRuns(by_rate))
    made.work(made.confirmation(), EmptyRuns(by_rate))
    found = conclude(made.opened)
    assert found.bootstrap.value == pytest.approx(0.1 * 1.52)
    assert {c.name: c.values for c in found.contenders} == {
        "baseline": {1: pytest.approx(0.1)},
        "bootstrap": {1: pytest.approx(0.1 * 1.52)},
    }
    assert not any("as they were measured" in note for note in found.notes)
    assert not any("several devices" in note for note in found.notes)
    made.opened._set(
        "jorge:cost:of-another-machine", asdict(Cost(1.1, 0.5, 0.02, "another", "interval", "as scripted"))
    )
    assert any("several devices or numbers of threads" in note for note in conclude(made.opened).notes)


def test_seconds_that_were_not_calibrated_are_said_to_be_as_measured(tmp_path):
    objective = Objective(kind="time-to-target", metric="top1", target=0.05)
    made = Searched(tmp_path, trials=1, confirm_seeds=(), objective=objective)
    made.work(made.opened, EmptyRuns(by_rate))
    assert (
        "Training seconds are as they were measured, also where runs shared a machine." in conclude(made.opened).notes
    )
