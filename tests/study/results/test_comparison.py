"""A comparison as a study: what is queued, what a later call adds, and what is collected; the runs train nothing."""

from __future__ import annotations

import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from jorge_tune.compare.comparison import compare
from jorge_tune.errors import InputError
from jorge_tune.recipe.recipe_files import parse_recipe
from jorge_tune.recipe.schema import JorgeSection, Target
from jorge_tune.study.confirm import run_in_words
from jorge_tune.study.export import recipe_of, to_csv, write_trial
from jorge_tune.study.jobs.client import ProcessEnd
from jorge_tune.study.plan import comparison_plan, is_comparison
from jorge_tune.study.report_data import collect, open_comparison
from jorge_tune.study.status import read_status
from jorge_tune.study.stop import WorkerStops
from jorge_tune.study.storage.address import parse_address
from jorge_tune.study.storage.open import open_storage
from jorge_tune.study.stored_plan import plan_from_json, plan_to_json
from jorge_tune.study.study import join_study, open_study
from jorge_tune.study.trial_rows import read_rows
from jorge_tune.study.worker import WorkerSettings, work_on
from tests.study.empty_runs import FINISHED, EmptyRuns
from tests.study.servers import empty_database
from tests.study.small_studies import small_plan, sqlite_at
from tests.training.small_recipes import digits_recipe

SGD = digits_recipe(name="sgd")
JORGE = replace(SGD, name="jorge", optimizer=JorgeSection(lr=0.2))
BOTH = {"sgd": SGD, "jorge": JORGE}


class Compared:
    """A comparison in a directory; `open` is one more call of the command."""

    def __init__(self, folder, address=None):
        folder.mkdir(exist_ok=True)
        self.folder, self.address = folder, address or sqlite_at(folder)
        self.storage = open_storage(self.address, create=True)

    def runs(self, name):
        return self.folder / "runs" / name

    def open(self, recipes=BOTH, seeds=(0, 1), name="race", **options):
        plan = comparison_plan(name, recipes, seeds, device="cpu", threads=1, **options)
        self.opened = open_comparison(self.storage, plan, list(recipes), seeds, self.runs)
        return self.opened

    def work(self, runs, folder=None):
        stops = WorkerStops()
        try:
            settings = WorkerSettings(device="cpu", threads=1)
            return work_on(self.opened, folder or self.runs("race"), settings, stops, server=runs)
        finally:
            stops.close()

    def collect(self, seeds=None):
        return collect(self.opened, self.runs("race"), seeds)

    def points(self):
        return [(row.point["contender"], row.point["seed"]) for row in read_rows(self.opened.study)]


def ran(runs):
    """(Name, rate, seed) of every run that was started."""
    recipes = [parse_recipe(job.recipe_text, "job").recipe for job in runs.jobs]
    return [(recipe.name, recipe.optimizer.lr, recipe.seed) for recipe in recipes]


def seeds_of(collected):
    return {contender.name: [run.seed for run in contender.runs] for contender in collected.contenders}


@pytest.fixture
def compared(tmp_path):
    return Compared(tmp_path)


def test_all_contenders_run_one_seed_before_the_next_each_with_its_own_recipe(compared):
    compared.open(seeds=(3, 1))
    assert compared.points() == [("sgd", 3), ("jorge", 3), ("sgd", 1), ("jorge", 1)]
    runs = EmptyRuns()
    assert compared.work(runs).kind == "done"
    assert ran(runs) == [("sgd", 0.1, 3), ("jorge", 0.2, 3), ("sgd", 0.1, 1), ("jorge", 0.2, 1)]
    assert compared.opened.plan.trials == 4


def test_a_trials_value_is_the_final_one_of_the_metric(compared):
    compared.open(metric="loss")
    assert compared.opened.study.direction.name == "MINIMIZE"
    assert comparison_plan("a", {"sgd": SGD}, (0,)).objective.metric == "top1"
    aimed = replace(SGD, target=Target(metric="loss", value=0.1))
    assert str(comparison_plan("a", {"sgd": aimed}, (0,)).objective) == "final loss (lower is better)"


def test_the_plan_travels_and_searches_nothing(compared):
    plan = compared.open().plan
    joined = join_study(compared.storage, "race").plan
    assert joined == plan
    assert is_comparison(joined)
    assert plan_from_json(plan_to_json(plan), "x") == plan
    assert not is_comparison(small_plan())
    assert (plan.pruner, plan.overhead, plan.baseline, plan.confirm_seeds) == ("none", None, None, ())


def test_the_same_call_repeats_nothing_and_more_seeds_add_what_is_missing(compared):
    compared.open()
    runs = EmptyRuns()
    compared.work(runs)
    compared.open()
    compared.work(runs)
    assert len(runs.jobs) == 4
    compared.open(seeds=(0, 1, 2))
    compared.work(runs)
    assert ran(runs)[4:] == [("sgd", 0.1, 2), ("jorge", 0.2, 2)]
    assert seeds_of(compared.collect()) == {"sgd": [0, 1, 2], "jorge": [0, 1, 2]}
    assert seeds_of(compared.collect((1,))) == {"sgd": [1], "jorge": [1]}
    assert compared.collect((1,)).notes == []


def test_the_order_of_contenders_and_the_metric_make_no_other_comparison(compared):
    first = compared.open()
    again = compared.open({"jorge": JORGE, "sgd": SGD}, (0, 1, 2), metric="loss")
    assert again.study_id == first.study_id
    assert again.plan.objective.metric == "top1", "it stays that of the first call"
    assert compared.points()[-2:] == [("jorge", 2), ("sgd", 2)]
    compared.work(EmptyRuns())
    assert seeds_of(compared.collect()) == {"sgd": [0, 1, 2], "jorge": [0, 1, 2]}


@pytest.mark.parametrize(
    ("recipes", "named"),
    [
        (
            {"sgd": SGD, "jorge": replace(JORGE, optimizer=JorgeSection(lr=0.3))},
            r"jorge.optimizer.lr: 0.2 in the study, 0.3 now",
        ),
        ({"sgd": SGD}, "it races jorge, sgd"),
        ({"sgd": SGD, "other": replace(SGD, name="other")}, "it races jorge, sgd"),
    ],
)
def test_other_recipes_under_the_same_name_are_refused_without_a_word_of_branches(compared, recipes, named):
    compared.open()
    refusal = rf"^study race exists already and differs \({named}\); give another --name$"
    with pytest.raises(InputError, match=refusal):
        compared.open(recipes)
    assert len(compared.points()) == 4


def test_searches_and_comparisons_do_not_take_each_others_names(compared):
    compared.open(name="small")
    with pytest.raises(InputError, match=r"study small exists already and is a comparison; give another --name$"):
        open_study(compared.storage, small_plan(), compared.runs)
    open_study(compared.storage, small_plan(name="search"), compared.runs)
    with pytest.raises(InputError, match=r"study search exists already and is a search; give another --name$"):
        compared.open(name="search")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a b", BOTH, (0,)), "--name: must be 1 to 100 letters"),
        (("a.sgd", BOTH, (0,)), "--name: must be"),
        (("a", {"sgd": replace(SGD, task=None)}, (0,)), "recipe sgd has no task"),
        (("a", BOTH, (0, 2**32)), "--seeds: must be between 0 and 4294967295"),
    ],
)
def test_what_cannot_be_a_comparison_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        comparison_plan(*arguments)


def fails_for(name, ended):
    """One contender's runs end like this: of two contenders the first has even trials."""
    odd = {"sgd": 0, "jorge": 1}[name]

    def end(folder, start):
        return ended if int(folder.split("/")[0].removeprefix("trial-")) % 2 == odd else FINISHED

    return end


@pytest.mark.parametrize("input_error", [True, False])
def test_a_contender_that_fails_is_named_and_the_rest_is_compared(compared, input_error):
    """Five seeds: three trials in a row that break off would stop a search, and bad input at once."""
    compared.open(seeds=range(5))
    broken = EmptyRuns(end=fails_for("jorge", ProcessEnd("failed", "no such layer", input_error=input_error)))
    assert compared.work(broken).kind == "done"
    collected = compared.collect()
    assert seeds_of(collected) == {"sgd": [0, 1, 2, 3, 4], "jorge": []}
    assert collected.notes == ["jorge: seeds 0, 1, 2, 3, 4: failed: no such layer"]
    table = compare(collected.contenders)
    assert [len(standing.scores) for standing in table.standings] == [5, 0]
    compared.open(seeds=range(5))
    mended = EmptyRuns()
    compared.work(mended)
    assert ran(mended) == [("jorge", 0.2, seed) for seed in range(5)], "failed runs are tried again"
    assert compared.collect().notes == []


def test_three_broken_contenders_in_a_row_do_not_stop_the_fourth(compared):
    names = ("a", "b", "c", "good")
    compared.open({name: replace(SGD, name=name) for name in names}, (0,))
    runs = EmptyRuns(
        end=lambda folder, start: FINISHED if folder.startswith("trial-3/") else ProcessEnd("failed", "broke")
    )
    assert compared.work(runs).kind == "done"
    assert seeds_of(compared.collect()) == {"a": [], "b": [], "c": [], "good": [0]}


def test_a_full_disk_stops_a_comparison_as_it_stops_a_search(compared):
    compared.open()
    full = EmptyRuns(end=lambda folder, start: ProcessEnd("failed", "[Errno 28] No space left on device"))
    assert compared.work(full).kind == "fault"


def test_diverged_runs_are_runs(compared):
    compared.open()
    compared.work(EmptyRuns(end=fails_for("jorge", ProcessEnd("diverged", "loss is nan")), reached=1))
    collected = compared.collect()
    assert seeds_of(collected) == {"sgd": [0, 1], "jorge": [0, 1]}
    assert compare(collected.contenders).standings[1].diverged == 2


def test_runs_that_are_elsewhere_or_to_come_are_named(compared):
    compared.open()
    assert compared.collect().notes == [f"{name}: seeds 0, 1: has not ended yet" for name in BOTH]
    compared.work(EmptyRuns())
    shutil.rmtree(compared.runs("race") / "trial-3")
    shutil.rmtree(compared.runs("race") / "trial-1" / "seed-0")
    collected = compared.collect()
    assert seeds_of(collected) == {"sgd": [0, 1], "jorge": []}
    (note,) = collected.notes
    assert note.startswith("jorge: seeds 0, 1: trained elsewhere; this machine does not see its run directory")
    compared.open()
    again = EmptyRuns()
    compared.work(again)
    assert again.jobs == [], "what others trained is not trained again"


def test_a_run_left_half_here_and_ended_elsewhere_is_not_taken_for_whole(compared):
    compared.open(seeds=(0,))
    compared.work(EmptyRuns())
    records = compared.runs("race") / "trial-0" / "seed-0" / "records.jsonl"
    records.write_text("".join(records.read_text().splitlines(keepends=True)[:-1]))
    assert seeds_of(compared.collect()) == {"sgd": [], "jorge": [0]}
    assert "records stop before the end" in compared.collect().notes[0]
    with records.open("a") as file:
        file.write("no record\n{}\n")
    assert f"{records}" in compared.collect().notes[0]


def test_the_runs_of_another_race_are_not_taken_for_this_ones(compared, tmp_path):
    compared.open(seeds=(0,))
    compared.work(EmptyRuns())
    other = Compared(tmp_path / "other")
    other.open(seeds=(0,))
    other.work(EmptyRuns())
    assert seeds_of(other.collect()) == {"sgd": [0], "jorge": [0]}
    assert seeds_of(collect(other.opened, compared.runs("race"))) == {"sgd": [], "jorge": []}


def test_a_second_machine_may_join_on_a_server(tmp_path):
    with empty_database("postgresql") as url:
        compared = Compared(tmp_path, parse_address(url))
        compared.open()
        other = Compared(tmp_path, parse_address(url))
        other.opened = join_study(other.storage, "race")
        runs = EmptyRuns()
        assert other.work(runs).kind == "done"
        assert seeds_of(compared.collect()) == {"sgd": [0, 1], "jorge": [0, 1]}
        compared.storage.close()
        other.storage.close()


def test_displays_name_contenders_and_no_best_trial(compared):
    compared.open({"sgd": SGD, "search": JORGE})
    compared.work(EmptyRuns())
    rows = read_rows(compared.opened.study)
    assert run_in_words(rows, 1, named=True) == "search, seed 0"
    status = read_status(compared.opened, compared.runs("race"), "here")
    assert (status.best, status.is_comparison, status.state, status.ended) == (None, True, "done", 4)
    assert not read_status(open_study(compared.storage, small_plan(), compared.runs), Path("x"), "here").is_comparison


def test_exports_have_names_instead_of_recipes_and_recipes_as_they_were_given(compared, tmp_path):
    compared.open()
    compared.work(EmptyRuns())
    rows, plan = read_rows(compared.opened.study), compared.opened.plan
    table = to_csv(rows, plan.space)
    assert table.splitlines()[0].startswith("number,state,value,contender,seed,")
    assert len(table.splitlines()) == 5
    assert recipe_of(rows[3], plan) == (replace(JORGE, seed=1), ())
    with pytest.raises(InputError, match="study race is a comparison and has no best trial; give --trial"):
        write_trial(compared.opened, tmp_path / "best.yaml")
    write_trial(compared.opened, tmp_path / "trial.yaml", 1)
    assert parse_recipe((tmp_path / "trial.yaml").read_text(), "trial").recipe == replace(JORGE, seed=0)


def test_seconds_of_runs_side_by_side_are_said_to_be_so(compared):
    compared.open(seeds=(0,))
    compared.work(EmptyRuns())
    assert not compared.collect().is_side_by_side
    with sqlite3.connect(compared.folder / "study.db") as connection:
        connection.execute("UPDATE trials SET datetime_start = (SELECT MIN(datetime_start) FROM trials)")
    connection.close()
    compared.storage = open_storage(compared.address)
    compared.opened = join_study(compared.storage, "race")
    assert compared.collect().is_side_by_side
