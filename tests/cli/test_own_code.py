"""Commands on recipes with code of a user's own: what is imported is said, and what need not import does not."""

from __future__ import annotations

import json

import pytest

from jorge_tune.cli import main
from tests.own_code import MODULE, write_recipe_with_code

POISON = "raise RuntimeError('imported')\n"
JORGE = "optimizer: {name: jorge, lr: 0.05, refresh_interval: 2}"
SGD = "optimizer: {name: sgd, lr: 0.05, momentum: 0.9, weight_decay: 1.0e-3}"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "code"


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code or 0


def jorge_recipe(folder, **given):
    path = write_recipe_with_code(folder, **given)
    path.write_text(path.read_text().replace(SGD, JORGE))
    return path


@pytest.mark.parametrize(
    "arguments",
    [["validate"], ["bootstrap", "-o", "-"], ["study", "run", "--name", "x", "--dry-run"]],
    ids=lambda arguments: arguments[0],
)
def test_what_only_reads_a_recipe_imports_nothing(folder, capsys, arguments):
    path = write_recipe_with_code(folder, code=POISON)
    command, *rest = arguments
    rest = [*rest[:1], path, *rest[1:]] if command == "study" else [path, *rest]
    assert run(command, *rest) == 0
    told = capsys.readouterr().err
    assert "imported" not in told
    if command == "study":
        assert f"no step is timed: the study imports own_code from {folder / 'own_code.py'}" in told


def test_train_says_what_it_imports_from_the_recipes_folder_and_logs_a_csv(folder, capsys):
    path = write_recipe_with_code(folder)
    assert run("train", path, "--out", "run", "--logger", "csv", "--format", "json") == 0
    out, err = capsys.readouterr()
    assert err.splitlines()[0] == f"imports own_code from {folder / 'own_code.py'}"
    assert json.loads(out)["best"]["metric"] == "loss"
    assert "validation/accuracy" in (folder.parent / "run" / "metrics.csv").read_text().splitlines()[0]


@pytest.mark.parametrize(
    "command", [["plan"], ["probe", "--at", "0"], ["diagnose", "--steps", "2"]], ids=lambda command: command[0]
)
def test_other_commands_take_it_too(folder, capsys, command):
    assert run(command[0], jorge_recipe(folder), *command[1:]) in (0, 4)
    assert "imports own_code" in capsys.readouterr().err or command[0] != "plan"


def test_a_race_of_what_follows_from_it(folder, capsys):
    path = write_recipe_with_code(folder)
    assert run("compare", path, "--against", "jorge", "--seeds", "0", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["metric"] == "loss"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (None, "task.factory: there is no module 'own_code': it is neither in"),
        (
            MODULE.replace("class Task:", "class Tusk:").replace("(Task)", "(Tusk)"),
            "own_code has no 'Task' (did you mean",
        ),
        ("raise ValueError('boom')\n", "own_code cannot be imported: ValueError: boom (own_code.py, line 1)"),
    ],
)
def test_a_fault_is_one_sentence_on_stderr(folder, capsys, code, said):
    path = write_recipe_with_code(folder, code=code or "")
    if code is None:
        (folder / "own_code.py").unlink()
    assert run("train", path, "--out", "run") == 2
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told
    assert not (folder.parent / "run").exists()


def test_a_worker_says_what_it_lacks(folder, capsys):
    assert run("study", "worker", "--name", "x", "--code", "no such place") == 2
    assert "--code: must be a directory or the name of a module, got 'no such place'" in capsys.readouterr().err
