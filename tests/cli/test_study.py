"""The commands on studies from the outside: on searched studies whose runs trained nothing, and on bad input."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys

import optuna
import pytest

from jorge_tune.cli import main
from jorge_tune.cli.cmd_study import _COMMANDS
from jorge_tune.cli.study_display import last_word
from jorge_tune.cli.study_options import StudyContext, how_to_resume, make_study
from jorge_tune.recipe.recipe_files import load
from jorge_tune.study.confirm import conclude
from jorge_tune.study.storage.retry import Patience
from jorge_tune.study.study import add_point, join_study
from jorge_tune.study.study_file import read_study
from jorge_tune.study.study_schema import Objective
from jorge_tune.study.trial_rows import read_rows
from tests.study.empty_runs import EmptyRuns
from tests.study.searched import Searched, by_rate, confirmed, searched


def run(*arguments, folder=None):
    """The exit code of `jorge-tune study ...`."""
    place = () if folder is None else ("--storage", str(folder / "study.db"))
    with pytest.raises(SystemExit) as ended:
        main(["study", *map(str, arguments), *place])
    return ended.value.code


@pytest.fixture
def made(tmp_path):
    """Four trials, confirmed, the verdict kept."""
    made = confirmed(tmp_path, confirm_seeds=(1, 2))
    conclude(made.opened)
    return made


@pytest.mark.parametrize("name", sorted(_COMMANDS))
def test_every_help_is_light_and_shows_a_runnable_example(name):
    program = (
        "import sys\nfrom jorge_tune.cli import main\n"
        f"try:\n    main(['study', {name!r}, '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'optuna', 'sqlalchemy', 'plotly'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "Example:" in answer.stdout
    assert f"jorge-tune study {name}" in answer.stdout


def test_status_prints_what_is_stored(made, tmp_path, capsys):
    assert run("status", "--name", "small", "--runs", made.runs("small"), "--format", "json", folder=tmp_path) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["ended"], data["remaining"], data["state"]) == (4, 0, "done")
    assert data["verdict"] == join_study(made.opened.storage, "small").study.user_attrs["verdict"]
    assert run("status", folder=tmp_path) == 0
    out = capsys.readouterr().out
    assert "4 of 4 ended (4 complete)" in out
    assert "small.confirm" in out
    assert f"\nVerdict\n{data['verdict']['headline']}\nSingle-shot tuning" in out
    assert "\n4 trials in all: 4 completed." in out


def test_the_verdict_shown_is_that_of_all_trials_that_have_ended_since(made, tmp_path, capsys):
    add_point(made.opened, made.opened.plan.space.bootstrap_point())
    made.work(made.opened, EmptyRuns(by_rate))
    assert run("status", folder=tmp_path) == 0
    assert "\n5 trials in all: 5 completed." in capsys.readouterr().out
    assert run("export", "-o", tmp_path / "all.json", folder=tmp_path) == 0
    assert json.loads((tmp_path / "all.json").read_text())["verdict"]["counts"]["complete"] == 5


def test_a_storage_that_cannot_be_written_is_read_all_the_same(made, tmp_path, capsys, monkeypatch):
    made.opened.storage.close()
    monkeypatch.setattr("jorge_tune.study.storage.open.can_be_written", lambda address: False)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("study.db*")}
    assert run("status", folder=tmp_path) == 0
    assert "4 of 4 ended (4 complete)" in capsys.readouterr().out
    assert run("best", folder=tmp_path) == 0
    assert run("export", "-o", tmp_path / "all.csv", folder=tmp_path) == 0
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 5
    assert {path.name: path.read_bytes() for path in tmp_path.glob("study.db*")} == before


def test_best_prints_a_recipe_that_reads_back_or_writes_it(made, tmp_path, capsys):
    assert run("best", folder=tmp_path) == 0
    out = capsys.readouterr().out
    (tmp_path / "printed.yaml").write_text(out)
    assert load(tmp_path / "printed.yaml").recipe.optimizer.lr == 0.2
    assert out.startswith("# study small: trial 1, best top1 0.2")
    assert "bootstrapped 0.1 x 2 (trial 1 of study small)" in out
    target = tmp_path / "best.yaml"
    assert run("best", "-o", target, folder=tmp_path) == 0
    assert run("best", "-o", target, folder=tmp_path) == 2
    assert "exists already" in capsys.readouterr().err
    assert run("best", "-o", target, "--force", "--format", "json", folder=tmp_path) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["optimizer"]["lr"] == 0.2


def test_a_point_is_queued_and_run_next(made, tmp_path, capsys):
    assert run("add", "--set", "lr=0.05", "--set", "refresh_interval=20", folder=tmp_path) == 0
    assert "queued as trial 4: optimizer.lr 0.05, optimizer.refresh_interval 20" in capsys.readouterr().out
    made.open(trials=5)
    runs = EmptyRuns(by_rate)
    made.work(made.opened, runs)
    assert [job.out.rpartition("/trial-")[2] for job in runs.jobs] == ["4/seed-0"]
    assert read_rows(made.opened.study)[4].value == pytest.approx(0.05)


def test_a_point_that_a_trial_has_already_is_queued_once_more_and_said_to_be_so(made, tmp_path, capsys):
    lr = made.opened.plan.recipe.optimizer.lr
    for said in ("trial 0 (complete) has the same values\n", "", "trial 5 (waiting) has the same values\n"):
        where = f"lr={2 * lr / 3:.3g}" if "0" not in said else f"lr={lr}"
        assert run("add", "--set", where, folder=tmp_path) == 0
        out, err = capsys.readouterr()
        assert err == said
        assert out.startswith("queued as trial ")
    assert [row.state for row in read_rows(made.opened.study)][4:] == ["waiting"] * 3


def test_a_study_of_another_version_is_read_and_never_added_to(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("jorge_tune.__version__", "99.0")
    before = read_rows(made.opened.study)
    for command in (("worker",), ("add", "--set", "lr=0.05"), ("confirm",), ("run", "--name", "small")):
        assert run(*command, folder=tmp_path) == 2
        assert capsys.readouterr().err.splitlines()[-1] == (
            f"study small was made by jorge-tune {made.opened.version}; this is 99.0, which can only read it. "
            "Install that version, or continue in a new study with `jorge-tune study run FILE --branch`"
        )
    for command in (("status",), ("best",), ("export", "-o", tmp_path / "all.csv"), ("reap",), ("stop",)):
        assert run(*command, "--name", "small", folder=tmp_path) == 0
    assert read_rows(made.opened.study) == before


def test_stop_lets_workers_leave_and_the_search_is_taken_up_again(tmp_path, capsys):
    made = Searched(tmp_path)
    assert run("stop", folder=tmp_path) == 0
    left = made.work(made.opened, EmptyRuns())
    assert (left.kind, left.trials) == ("stopped", 0)
    assert run("stop", "--now", folder=tmp_path) == 0
    assert made.opened.stop_request().how == "checkpoint"
    assert "resumes it" in capsys.readouterr().out


def test_a_worker_that_comes_after_a_stop_says_how_the_study_goes_on(tmp_path, capsys):
    made = Searched(tmp_path)
    assert run("stop", folder=tmp_path) == 0
    assert run("worker", "--runs", made.runs("small"), folder=tmp_path) == 0
    assert capsys.readouterr().err == "stop request from `study stop`; `jorge-tune study run --name small` resumes it\n"


def test_the_last_word_of_a_command_that_is_ended_at_once_says_how_it_goes_on(tmp_path, capfd):
    made = searched(tmp_path, confirm_seeds=(1, 2))
    for opened in (made.opened, made.confirmation()):
        found = StudyContext(made.address, opened.storage, opened, made.runs)
        last_word(how_to_resume(found))()
        told = "a second signal ended the command at once; `jorge-tune study run --name small` resumes it\n"
        assert capfd.readouterr().err == told


def test_reap_puts_a_dead_workers_trial_back_at_once(tmp_path, capsys):
    made = Searched(tmp_path)
    made.lose_a_worker()
    assert run("reap", "--runs", made.runs("small"), folder=tmp_path) == 0
    assert "study small: trial 0 put back into the queue" in capsys.readouterr().out
    assert read_rows(made.opened.study)[0].state == "waiting"
    assert run("reap", "--runs", made.runs("small"), "--format", "json", folder=tmp_path) == 0
    assert json.loads(capsys.readouterr().out) == {"small": []}


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_nothing_is_written_over_the_storage_itself(made, tmp_path, capsys, force):
    before = set(tmp_path.iterdir())
    for command in (("export",), ("export", "--as", "csv"), ("export", "--as", "recipe"), ("best",)):
        assert run(*command, "-o", tmp_path / "study.db", *force, folder=tmp_path) == 2
        assert capsys.readouterr().err == f"{tmp_path}/study.db: is the storage itself; give another name\n"
    assert run("export", "-o", tmp_path / "study.db-wal", "--as", "csv", *force, folder=tmp_path) == 2
    assert set(tmp_path.iterdir()) == before
    assert [row.state for row in read_rows(made.opened.study)] == ["complete"] * 4


def test_exports_by_ending(made, tmp_path, capsys):
    files = {ending: tmp_path / f"out.{ending}" for ending in ("csv", "json", "yaml", "db")}
    for file in files.values():
        assert run("export", "-o", file, folder=tmp_path) == 0
    assert len(files["csv"].read_text().splitlines()) == 5
    data = json.loads(files["json"].read_text())
    assert (data["study"], len(data["trials"]), data["verdict"]["study"]) == ("small", 4, "small")
    assert load(files["yaml"]).recipe.optimizer.lr == 0.2
    assert run("export", "-o", files["yaml"], "--trial", "2", "--force", folder=tmp_path) == 0
    assert load(files["yaml"]).recipe.optimizer.lr == 0.05
    copied = optuna.storages.RDBStorage(f"sqlite:///{files['db']}")
    assert sorted(study.study_name for study in copied.get_all_studies()) == ["small", "small.confirm", "small.sgd"]
    copied.engine.dispose()


def test_a_copy_goes_on_as_a_study(made, tmp_path, capsys):
    assert run("export", "-o", tmp_path / "copy.db", folder=tmp_path) == 0
    assert run("best", "--name", "small", "--storage", tmp_path / "copy.db") == 0
    assert "trial 1" in capsys.readouterr().out


def test_launch_prints_lines_and_never_a_password(tmp_path, capsys, monkeypatch):
    from jorge_tune.study.storage.address import Address
    from jorge_tune.study.storage.open import open_storage

    made = Searched(tmp_path)
    secret = Address("postgresql", "postgresql+psycopg://me:s%40crt@db/studies", None, "postgresql://me:***@db/studies")
    monkeypatch.setattr(
        "jorge_tune.cli.study_options.open_address", lambda option, create=False: (secret, open_storage(made.address))
    )
    assert run("launch", "--name", "small", "--runs", "/shared/small", "node1", "node2", "--workers", "2") == 0
    out = capsys.readouterr().out
    assert out.count("jorge-tune study worker --name small --runs /shared/small") == 4
    assert out.count("node1") == 2
    assert "JORGE_TUNE_STORAGE" in out
    assert run("launch", "--name", "small", "--slurm", "--workers", "8") == 0
    script = capsys.readouterr().out
    assert script.startswith("#!/bin/sh\n")
    assert "#SBATCH --array=1-8" in script
    for text in (out, script):
        assert "crt" not in text
        assert "postgresql://me:***@db/studies" in text


def test_launch_on_one_machine_and_not_on_many_from_an_sqlite_file(tmp_path, capsys):
    Searched(tmp_path)
    assert run("launch", "--workers", "2", folder=tmp_path) == 0
    assert capsys.readouterr().out.count("jorge-tune study worker") == 2
    assert run("launch", "node1", folder=tmp_path) == 2
    assert "is a file for one machine" in capsys.readouterr().err


def test_a_study_that_is_done_is_judged_again_without_a_run(made, tmp_path, capsys):
    arguments = ("run", "--name", "small", "--runs", made.runs("small"), "--format", "json")
    assert run(*arguments, folder=tmp_path) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == made.opened.study.user_attrs["verdict"]
    assert "search" not in err


def test_a_target_that_nobody_reached_is_an_honest_verdict(tmp_path, capsys):
    made = Searched(
        tmp_path,
        trials=2,
        objective=Objective(kind="epochs-to-target", metric="top1", target=0.99),
        confirm_seeds=(1, 2),
    )
    made.search(EmptyRuns(by_rate))
    assert run("run", "--name", "small", "--runs", made.runs("small"), folder=tmp_path) == 4
    out = capsys.readouterr().out
    assert "There is no best trial: no completed trial reached the target." in out
    assert run("best", folder=tmp_path) == 4
    assert "has no best trial: no completed trial reached the target" in capsys.readouterr().err
    assert run("confirm", "--runs", made.runs("small"), folder=tmp_path) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nowhere.yaml"], "neither a file nor a shipped recipe"),
        (["run", "digits/cnn-sgd", "--sampler", "evolution"], "'evolution' is not one of 'tpe'"),
        (["run", "digits/cnn-sgd", "--pruner", "wilcoxon"], "wilcoxon compares trials seed by seed"),
        (["run", "digits/cnn-sgd", "--name", "a/b"], "name"),
        (["run", "digits/cnn-sgd", "--name", "digits.sgd"], "not ending in .sgd"),
        (["run", "digits/cnn-sgd", "--constraint", "5%", "--no-constraint"], "contradict each other"),
        (["run", "digits/cnn-sgd", "--constraint", "much"], "write 10% or 0.1"),
        (["run", "digits/cnn-sgd", "--objective", "time-to-target"], "needs a target"),
        (["run", "digits/cnn-sgd", "--target", "top1=0.9"], "--target needs --objective"),
        (["run", "digits/cnn-sgd", "--seeds", "3-1"], "must go up"),
        (["run", "digits/cnn-sgd", "--trials", "0"], "--trials"),
        (["run"], "holds no study"),
        (["run", "--name", "digits", "--seeds", "0-2"], "--seeds needs the study file"),
        (["status", "--name", "digits"], "no study 'digits'"),
        (["worker", "--name", "digits"], "no study 'digits'"),
        (["add", "--name", "digits", "--set", "lr=1"], "no study 'digits'"),
        (["best"], "holds no study"),
        (["export", "-o", "trials.xlsx"], "-o must end in"),
        (["export", "-o", "trials.csv", "--trial", "3"], "--trial needs a recipe"),
    ],
)
def test_bad_input_is_one_clear_message(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'study.db'}").engine.dispose()
    assert run(*arguments, folder=tmp_path) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""
    assert "Traceback" not in err
    assert not (tmp_path / "studies").exists()


STUDY = """\
name: digits
recipe: digits/cnn-sgd
space: {space}
"""


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("{}", "space"),
        ("{optimizer.lr: {factor: [2, 4]}}", "study.yaml:3:"),
        ("{optimizer.lr: {factor: [0.5, 2]}, optimizer.refresh_interval: {choices: [50, 100]}}", "study.yaml:3:"),
        ("{optimizer.rate: {factor: [0.5, 2]}}", "optimizer.rate"),
        (
            "{optimizer: {lr: {factor: [0.5, 2]}}}",
            "unknown key; write optimizer.lr: {...}, with the field's whole name as",
        ),
    ],
)
def test_a_space_that_is_empty_or_leaves_the_bootstrap_out_is_refused_at_its_place(tmp_path, capsys, space, message):
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.format(space=space))
    assert run("run", file, folder=tmp_path) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "study.db").exists()


def test_options_win_over_the_file_and_are_checked_like_it(tmp_path, capsys):
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.format(space="{optimizer.lr: {factor: [0.5, 2]}}"))
    assert run("run", file, "--pruner", "wilcoxon", "--seeds", "0-2", folder=tmp_path) == 2
    assert "needs 4 seeds or more, got 3" in capsys.readouterr().err
    for given in (file, "digits/cnn-sgd"):
        assert run("run", given, "--hours", "nan", "--name", "a/b", folder=tmp_path) == 2
        name, hours = sorted(capsys.readouterr().err.splitlines(), reverse=True)
        assert name.startswith("--name: must be 1 to 100 letters")
        assert hours == "--hours: must be finite, got 'nan'"


def test_the_files_own_faults_keep_their_place_beside_those_of_options(tmp_path, capsys):
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.format(space="{optimizer.rate: {factor: [0.5, 2]}}"))
    assert run("run", file, "--hours", "nan", folder=tmp_path) == 2
    option, space = capsys.readouterr().err.splitlines()
    assert option.startswith("--hours: ")
    assert space.startswith(f"{file}:3:9: space.optimizer.rate: is not a field of the recipe")
    file.write_text(STUDY.format(space="{optimizer.lr: {factor: [0.5, 2]}}") + "hours: nan\n")
    assert run("run", file, "--trials", "3", folder=tmp_path) == 2
    assert capsys.readouterr().err == f"{file}:4:8: hours: must be a number, got 'nan'\n"


def test_an_empty_file_may_become_a_study_file(tmp_path, capsys):
    file = tmp_path / "study.yaml"
    file.write_text("# soon\n")
    assert run("run", file, folder=tmp_path) == 2
    assert capsys.readouterr().err == f"{file}:1:1: the file is empty; a study file is expected\n"


def test_a_sampler_whose_package_is_missing_is_refused_with_the_pip_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("jorge_tune.study.samplers._NEEDS", {"qmc": ("no_such_package",)})
    assert run("run", "digits/cnn-sgd", "--sampler", "qmc", folder=tmp_path) == 2
    assert "qmc needs no_such_package: pip install 'jorge-tune[samplers]'" in capsys.readouterr().err
    assert not (tmp_path / "study.db").exists()


def test_fewer_trials_than_are_done(made, tmp_path, capsys):
    assert run("run", "--name", "small", "--trials", "3", "--runs", made.runs("small"), folder=tmp_path) == 2
    assert "trials must be at least 4, the number that study small has ended, got 3" in capsys.readouterr().err


def test_a_study_of_the_same_name_with_another_space_is_refused_or_branched(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spaces = ("{optimizer.lr: {factor: [0.5, 2]}}", "{optimizer.lr: {factor: [0.25, 4]}}")
    files = [tmp_path / "one.yaml", tmp_path / "two.yaml"]
    for file, space in zip(files, spaces, strict=True):
        file.write_text(STUDY.format(space=space))
    storage = str(tmp_path / "study.db")
    assert make_study(read_study(files[0]), storage).name == "digits"
    assert run("run", files[1], folder=tmp_path) == 2
    err = capsys.readouterr().err
    assert "study digits exists already and differs" in err
    assert "space.optimizer.lr" in err
    assert make_study(read_study(files[1]), storage, branch=True).name == "digits-2"
    assert make_study(read_study(files[0]), storage, branch=True).name == "digits"
    assert "this study is digits-2" in capsys.readouterr().err


def test_two_studies_need_a_name(tmp_path, capsys):
    Searched(tmp_path)
    Searched(tmp_path, name="other")
    assert run("status", folder=tmp_path) == 2
    assert "more than one study: other, small; choose one with --name" in capsys.readouterr().err


def test_a_point_outside_the_space_or_of_no_searched_field_is_refused(tmp_path, capsys):
    made = Searched(tmp_path)
    for assignment, message in (
        ("lr=7", "optimizer.lr must be between 0.025 and 0.4, got"),
        ("momentum=0.5", "is not searched here"),
        ("lr", "must be written as field=value"),
        ("lr=fast", "must be between"),
    ):
        assert run("add", "--set", assignment, folder=tmp_path) == 2
        assert message in capsys.readouterr().err
    assert len(read_rows(made.opened.study)) == 1


@pytest.mark.parametrize("ending", ["db", "journal"])
def test_a_damaged_file_is_named_and_kept(tmp_path, capsys, ending):
    path = tmp_path / f"study.{ending}"
    path.write_bytes(b"nothing that could be read\n" * 100)
    assert run("status", "--storage", path) == 2
    err = capsys.readouterr().err
    assert str(path) in err
    assert "Traceback" not in err
    assert list(tmp_path.glob("*damaged*"))
    assert path.read_bytes() == b"nothing that could be read\n" * 100


def test_a_file_of_something_else_is_no_storage(tmp_path, capsys):
    connection = sqlite3.connect(tmp_path / "study.db")
    connection.execute("CREATE TABLE songs (title TEXT)")
    connection.commit()
    connection.close()
    assert run("status", folder=tmp_path) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.fixture
def impatient(monkeypatch):
    """Commands that wait a tenth of a second for a storage that is away, instead of minutes."""
    make = Patience.__init__
    monkeypatch.setattr(Patience, "__init__", lambda self, *args, **options: make(self, *args, **options, seconds=0.1))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_an_unreachable_server_is_one_message_without_the_password(capsys, monkeypatch, scheme):
    monkeypatch.setenv("JORGE_TUNE_STORAGE", f"{scheme}://me:se%40cret@127.0.0.1:9/studies")
    assert run("status", "--name", "digits") == 1
    out, err = capsys.readouterr()
    assert "127.0.0.1:9" in err
    assert "cret" not in out + err
    assert "Traceback" not in err


@pytest.mark.usefixtures("impatient")
def test_a_password_on_the_command_line_is_warned_of(capsys):
    assert run("status", "--storage", "postgresql://me:se%40cret@127.0.0.1:9/studies") == 1
    err = capsys.readouterr().err
    assert "put the address into JORGE_TUNE_STORAGE instead" in err
    assert "cret" not in err


def test_a_file_that_is_not_there_is_named(tmp_path, capsys):
    assert run("status", folder=tmp_path) == 2
    assert "study.db: there are no studies, the file is missing or empty" in capsys.readouterr().err
    assert not (tmp_path / "study.db").exists()
