"""`jorge-tune bootstrap` as a user runs it."""

import json
import re
import subprocess
import sys

import pytest

from jorge_tune.cli import main
from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.recipe.recipe_files import read_recipe, shipped_recipes
from jorge_tune.recipe.schema import Cosine, JorgeSection, Step

HEAVY = ("torch", "torchvision", "numpy", "optuna", "sqlalchemy", "plotly", "sklearn", "rich")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["bootstrap", *arguments])
    return ended.value.code


def test_it_writes_the_recipe_and_shows_why(here, capsys):
    assert run("cifar10/resnet18-sgd") == 0
    shown = capsys.readouterr()
    assert "wrote resnet18-jorge.yaml" in shown.err
    row = re.compile(
        r"^optimizer\.weight_decay +5\.0e-4 +5\.0e-3 +scaled.*5\.0e-4 x \(1 - 0\) / \(1 - 0\.9\).*Eq\. 9", re.M
    )
    assert row.search(shown.out)
    made = read_recipe(here / "resnet18-jorge.yaml")
    assert made == bootstrap(read_recipe(shipped_recipes()["cifar10/resnet18-sgd"])).recipe
    assert isinstance(made.optimizer, JorgeSection)
    text = (here / "resnet18-jorge.yaml").read_text()
    assert "weight_decay: 5.0e-3  # 5.0e-4 x (1 - 0) / (1 - 0.9) (Jorge, Eq. 9)" in text


def test_the_table_shows_what_changes_and_counts_the_rest(capsys):
    assert run("digits/cnn-sgd") == 0
    shown = capsys.readouterr().out
    fields = [line.split()[0] for line in shown.splitlines()[2:] if line]
    assert fields[: fields.index("19")] == [
        "name",
        "optimizer.name",
        "optimizer.graft",
        "optimizer.weight_decay",
        "optimizer.decoupled",
        "optimizer.refresh_interval",
    ]
    assert "\n19 fields are unchanged; --all shows them.\n" in shown
    assert run("digits/cnn-sgd", "--all", "--force") == 0
    shown = capsys.readouterr().out
    assert "unchanged; --all" not in shown
    assert len([line for line in shown.splitlines() if line.startswith(("optimizer.", "task."))]) > 10
    assert run("digits/cnn-sgd", "--force", "--format", "json") == 0
    derivations = json.loads(capsys.readouterr().out)["derivations"]
    assert len([d for d in derivations if d["before"] is not None and not d["changed"]]) == 19


def test_a_replaced_schedule_is_announced_with_both_curves(capsys):
    run("cifar10/resnet18-sgd")
    shown = capsys.readouterr().out
    assert "The schedule CHANGES: " in shown
    assert " replaces {name: cosine" in shown
    plot = shown[shown.index("learning rate ") :].splitlines()
    rows = [line.split("|", 1)[1].ljust(60) for line in plot if "|" in line]
    assert len(rows) == 10
    columns = ["".join(column) for column in zip(*rows, strict=True)]
    assert all({"o", "#", "@"} & set(column) for column in columns)
    assert all("@" in column or ("o" in column and "#" in column) for column in columns)
    steps = [re.search("[#@]", column).start() for column in columns]  # the row of the new rate, at each time
    assert steps[5] == 0  # the full rate, then a tenth and a hundredth of it: three and six rows of a decade's third
    assert (steps[30], steps[50]) == (3, 6)
    assert plot[-1].endswith("200 epochs")


def test_a_kept_schedule_is_not_announced(here, capsys):
    assert run("cifar10/resnet18-sgd", "--schedule", "keep", "-o", "kept.yaml") == 0
    assert "CHANGES" not in capsys.readouterr().out
    assert isinstance(read_recipe(here / "kept.yaml").schedule, Cosine)


def test_from_adamw_the_schedule_stays_and_the_rules_are_said_to_be_ours(here, capsys):
    assert run("digits/cnn-adamw") == 0
    assert "the rules for AdamW are ours" in capsys.readouterr().out
    assert isinstance(read_recipe(here / "cnn-jorge.yaml").schedule, Cosine)
    assert run("digits/cnn-adamw", "--schedule", "step", "--force") == 0
    assert isinstance(read_recipe(here / "cnn-jorge.yaml").schedule, Step)


def test_json_on_stdout_is_json_alone(capsys):
    assert run("digits/cnn-sgd", "--format", "json") == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["written"], data["recipe"]) == ("cnn-jorge.yaml", "cnn-jorge")
    decay = next(d for d in data["derivations"] if d["field"] == "optimizer.weight_decay")
    assert decay == {
        "field": "optimizer.weight_decay",
        "before": 5e-4,
        "after": 5e-3,
        "rule": "scaled: decoupled decay is not amplified by momentum",
        "formula": "5.0e-4 x (1 - 0) / (1 - 0.9)",
        "source": "Jorge, Eq. 9",
        "changed": True,
    }


def test_a_warning_about_what_was_made_is_told(here, capsys):
    (here / "warm.yaml").write_text(
        "name: warm\noptimizer: {name: sgd, lr: 1}\nschedule: {name: step, milestones: [30]}\n"
        "epochs: 9\nbatch_size: 1\n"
    )
    assert run("warm.yaml", "-o", "out.yaml", "--schedule", "keep") == 0
    assert re.search(r"out\.yaml:\d+:\d+: schedule\.milestones: not reached: 30", capsys.readouterr().err)


def test_a_schedule_kept_by_convention_is_announced(here, capsys):
    assert run("digits/cnn-sgd") == 0
    assert "The schedule is kept: runs under 26 epochs" in capsys.readouterr().out
    assert "cosine" in (here / "cnn-jorge.yaml").read_text()


def test_an_existing_file_stays_unless_forced(here, capsys):
    (here / "cnn-jorge.yaml").write_text("mine")
    assert run("digits/cnn-sgd") == 2
    assert "exists already; give another name, or --force" in capsys.readouterr().err
    assert (here / "cnn-jorge.yaml").read_text() == "mine"
    assert run("digits/cnn-sgd", "--force") == 0
    assert read_recipe(here / "cnn-jorge.yaml").name == "cnn-jorge"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "neither a file nor a shipped recipe"),
        (b"name: [", "bad.yaml:1:8: not valid YAML"),
        (b"name: x\nepochs: -1\nlr: 3\n", "bad.yaml:2:9: epochs: must be 1 or more, got '-1'"),
        (b"\x00\x01", "a binary file"),
        (b"name: x\noptimizer: {name: jorge, lr: 1}\nepochs: 3\nbatch_size: 1\n", "already a Jorge recipe"),
    ],
)
def test_bad_input_is_a_message_exit_2_and_nothing_written(here, capsys, content, told):
    if content is not None:
        (here / "bad.yaml").write_bytes(content)
    assert run("bad.yaml") == 2
    shown = capsys.readouterr()
    assert told in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert [path.name for path in here.iterdir()] == (["bad.yaml"] if content is not None else [])


def test_nothing_heavy_is_imported():
    program = (
        "import sys\nfrom jorge_tune.cli import main\n"
        "try:\n    main(['bootstrap', 'cifar10/resnet18-sgd'])\n"
        "except SystemExit as ended:\n    assert ended.code == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.splitlines()[-1] == "[]"
