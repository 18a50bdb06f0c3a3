"""Studies of a command: its trials complete, fail, are pruned and killed; nothing of it outlives its run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jorge_tune.errors import FaultyFileError, InputError
from jorge_tune.recipe.recipe_files import write_recipe
from jorge_tune.recipe.schema import JorgeSection, MetricsSection
from jorge_tune.records import of_kind, outcome_of
from jorge_tune.study.claimed_trial import ClaimedTrial
from jorge_tune.study.jobs.client import RunLauncher
from jorge_tune.study.plan import StudyPlan, comparison_plan, needs_torch
from jorge_tune.study.space import FactorParameter, SearchSpace
from jorge_tune.study.storage.address import parse_address
from jorge_tune.study.storage.open import open_storage
from jorge_tune.study.study import join_study, open_study
from jorge_tune.study.study_file import default_study, parse_study
from jorge_tune.study.study_schema import Objective
from tests.command.scripts import command_recipe, is_alive, python_path, records_of, write_script
from tests.study.small_studies import small_plan, sqlite_at
from tests.study.work.test_worker import Rig, once
from tests.waiting import wait_until

RATE = "rate = float(sys.argv[1])\n"
JUDGED = (
    RATE + "for e in (1, 2, 3):\n    jorge_tune.report(step=e, epoch=e, top1=min(1, 0.2 * e * rate * 10), loss=1 / e)\n"
)
RESUMES = """
here = jorge_tune.run_directory()
lives = here / "pid"
if lives.exists() and Path(f"/proc/{lives.read_text()}").exists():
    (here / "overlap").touch()
lives.write_text(str(os.getpid()))
done = here / "done"
for step in range(int(done.read_text()) + 1 if done.exists() else 1, 31):
    time.sleep(0.05)
    jorge_tune.report(step=step, epoch=step / 10, top1=step / 100)
    done.write_text(str(step))
    if jorge_tune.should_stop():
        break
"""


def command_plan(folder: Path, body: str, *, metrics: MetricsSection | None = None, **changes) -> StudyPlan:
    """A study of the rate of a script's Jorge recipe."""
    jorge = JorgeSection(lr=0.1, refresh_interval=10)
    script = write_script(folder, body)
    recipe = command_recipe(script, "{optimizer.lr}", optimizer=jorge, metrics=metrics, grace=2.0)
    rate = FactorParameter(name="lr_factor", path="optimizer.lr", centre=0.1, low=0.25, high=4.0)
    space = SearchSpace(recipe, (rate,))
    return small_plan(recipe=recipe, baseline=None, space=space, trials=2, **changes)


class CommandRig(Rig):
    """A study of a command in a directory."""

    def __init__(self, folder: Path, body: str, **changes) -> None:
        self.folder, self.plan, self.told = folder, command_plan(folder, body, **changes), []
        self.opened = open_study(open_storage(sqlite_at(folder)), self.plan, lambda name: folder / "runs")

    def run(self, number: int) -> Path:
        return self.folder / "runs" / f"trial-{number}" / "seed-0"


@pytest.fixture
def launcher():
    with RunLauncher(with_torch=False, grace_seconds=1.0) as launcher:
        yield launcher


def test_trials_are_judged_by_what_the_script_reports(tmp_path, launcher):
    rig = CommandRig(tmp_path, JUDGED)
    assert not needs_torch(rig.plan)
    assert rig.work(launcher).kind == "done"
    for trial in rig.trials:
        assert trial.state.name == "COMPLETE"
        assert trial.value == pytest.approx(min(1, 0.6 * trial.params["lr_factor"]))
        assert sorted(trial.intermediate_values) == [1, 2, 3]


def test_a_script_that_fails_costs_its_trial_alone(tmp_path, launcher):
    rig = CommandRig(tmp_path, RATE + "if rate != 0.1:\n    sys.exit('no such rate')\n" + JUDGED)
    rig.work(launcher)
    assert rig.states() == ["COMPLETE", "FAIL"]
    assert "the command exited with code 1; it said: no such rate" in rig.trials[1].user_attrs["reason"]


def test_a_script_that_never_reports_the_objective_fails_its_trial(tmp_path, launcher):
    rig = CommandRig(tmp_path, "jorge_tune.report(epoch=3, accuracy=0.5)")
    rig.work(launcher)
    assert "no evaluation has top1; the objective needs it; it has accuracy" in rig.trials[0].user_attrs["reason"]


def test_a_divergence_is_the_worst_value(tmp_path, launcher):
    rig = CommandRig(tmp_path, "jorge_tune.report(epoch=1, top1=0.5, loss=float('nan'))\ntime.sleep(1000)")
    rig.work(launcher)
    assert rig.states() == ["COMPLETE", "COMPLETE"]
    assert rig.trials[0].user_attrs["diverged"] is True


def test_a_program_that_is_not_there_stops_the_study_with_the_sentence(tmp_path, launcher):
    rig = CommandRig(tmp_path, JUDGED)
    recipe = command_recipe(command=("no-such-program",), optimizer=JorgeSection(lr=0.1))
    rig.plan = small_plan(recipe=recipe, baseline=None, space=SearchSpace(recipe, ()), trials=1, name="other")
    rig.opened = open_study(open_storage(sqlite_at(tmp_path)), rig.plan, lambda name: tmp_path / "other")
    end = rig.work(launcher, into="other")
    assert (end.kind, end.exit_code) == ("fault", 2)
    assert "the program 'no-such-program' is not there" in end.reason


def test_a_trial_that_is_pruned_ends_its_script(tmp_path, launcher, monkeypatch):
    monkeypatch.setattr(ClaimedTrial, "should_prune", lambda self: self.claim.number == 1 and len(self.reported) >= 2)
    slow = """
    (jorge_tune.run_directory() / "pid").write_text(str(os.getpid()))
    for step in range(1, 4 if sys.argv[1] == "0.1" else 4000):
        jorge_tune.report(step=step, epoch=step / 4000, top1=0.5)
        time.sleep(0.05)
    """
    rig = CommandRig(tmp_path, slow, pruner="median")
    rig.work(launcher)
    assert rig.states() == ["COMPLETE", "PRUNED"]
    assert not is_alive(int((rig.run(1) / "pid").read_text()))
    assert outcome_of(records_of(rig.run(1))) == "interrupted"


def test_a_run_whose_process_is_killed_is_resumed_in_its_directory(tmp_path, launcher, monkeypatch):
    monkeypatch.setattr("jorge_tune.study.jobs.faults._PAUSES", (0.0,))
    rig = CommandRig(tmp_path, RESUMES)
    command = rig.run(0) / "pid"
    killed = []

    def kill() -> None:
        killed.append(int(command.read_text()))
        os.kill(killed[0], signal.SIGKILL)

    once(lambda: rig.has_reported(3), kill)
    rig.work(launcher)
    assert rig.states() == ["COMPLETE", "COMPLETE"]
    assert killed
    starts = [(record["step"] > 0, record["resumed"]) for record in of_kind(records_of(rig.run(0)), "start")]
    assert starts == [(False, False), (True, True)]
    steps = [record["step"] for record in of_kind(records_of(rig.run(0)), "evaluation")]
    assert steps == list(range(1, 31))


def test_nothing_outlives_a_run_or_a_worker_that_is_killed_and_the_study_goes_on(tmp_path):
    write_recipe(tmp_path / "jorge.yaml", command_plan(tmp_path, RESUMES).recipe)
    (tmp_path / "study.yaml").write_text(
        "version: 1\nname: s\nrecipe: jorge.yaml\nspace: {optimizer.lr: {factor: [0.5, 2]}}\n"
        "trials: 2\nconfirm_seeds: 0\npruner: none\n"
    )
    command = [sys.executable, "-m", "jorge_tune", "study", "run", "study.yaml", "--workers", "1"]
    runs = [tmp_path / "studies" / "s" / f"trial-{number}" / "seed-0" for number in (0, 1)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=python_path(), stdout=log, stderr=log)
        for run, victim in zip(runs, ("run", "worker"), strict=True):
            wait_until(lambda run=run: (run / "done").exists() and int((run / "done").read_text() or 0) >= 3, 120)
            script = int((run / "pid").read_text())
            os.kill(worker_of(process.pid) if victim == "worker" else run_of(script), signal.SIGKILL)
            wait_until(lambda script=script: not is_alive(script), 60)
        assert process.wait(240) == 0, (tmp_path / "log").read_text()

    opened = join_study(open_storage(parse_address(f"sqlite:///{tmp_path}/studies/jorge-tune.db")), "s")
    assert [trial.state.name for trial in opened.study.get_trials()] == ["COMPLETE", "COMPLETE"]
    for run in runs:
        assert not (run / "overlap").exists()
        assert [record["step"] for record in of_kind(records_of(run), "evaluation")] == list(range(1, 31))
        assert len(list(of_kind(records_of(run), "start"))) > 1


def parents() -> dict[int, tuple[int, str]]:
    """Every process's parent and command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                found[int(entry.name)] = parent, (entry / "cmdline").read_text()
            except OSError:
                continue
    return found


def worker_of(supervisor: int) -> int:
    return next(p for p, (parent, line) in parents().items() if parent == supervisor and "study.worker" in line)


def run_of(script: int) -> int:
    """The process of the run: the guard's parent."""
    known = parents()
    return known[known[script][0]][0]


def test_what_a_study_of_a_command_cannot_have_is_told(tmp_path):
    write_script(tmp_path, JUDGED)
    recipe = tmp_path / "jorge.yaml"

    def write(**changes) -> None:
        made = command_recipe(tmp_path / "train.py", **({"optimizer": JorgeSection(lr=0.1)} | changes))
        write_recipe(recipe, made, force=True)

    write()
    assert default_study(str(recipe)).overhead is None  # no step to calibrate
    text = f"version: 1\nname: s\nrecipe: {recipe}\nspace: {{optimizer.lr: {{factor: [0.5, 2]}}}}\n"
    with pytest.raises(FaultyFileError, match="constraint: the step of a command cannot be calibrated"):
        parse_study(text + "constraint: {overhead: 10%}\n", "s.yaml")
    write(optimizer=JorgeSection(lr=0.1, refresh_interval="auto"))
    with pytest.raises(FaultyFileError, match=r"'auto' cannot be measured for a command, .* jorge_tune\.calibrate"):
        parse_study(text, "s.yaml")
    write(target=None)
    with pytest.raises(FaultyFileError, match="objective: needs the name of a metric that the command reports"):
        parse_study(text, "s.yaml")
    made = command_recipe(tmp_path / "train.py", target=None)
    with pytest.raises(InputError, match="--metric: must name what the command of recipe a reports"):
        comparison_plan("c", {"a": made}, [0])
    assert comparison_plan("c", {"a": made}, [0], metric="top1").objective == Objective(kind="final", metric="top1")
