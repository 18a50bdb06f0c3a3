"""What all commands share: suggestions, devices, completion."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch
from click.shell_completion import ShellComplete

import jorge_tune
from jorge_tune.cli import _COMMANDS, _group, main
from jorge_tune.cli.cmd_study import _COMMANDS as STUDY_COMMANDS
from jorge_tune.recipe.recipe_files import shipped_recipes

WITH_DEVICE = ["bootstrap", "calibrate-freq", "compare", "demo", "diagnose", "probe", "train"]
WITH_DEVICE += ["study run", "study worker", "study confirm"]
WITH_RECIPE = [[name] for name in ("train", "bootstrap", "validate", "plan", "probe", "diagnose", "calibrate-freq")]


def run(*arguments):
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code


def command_of(words):
    command = _group
    for word in words.split():
        command = command.get_command(click.Context(command), word)
    return command


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tran"], "No such command 'tran'. Did you mean 'train'?"),
        (["validat"], "No such command 'validat'. Did you mean 'validate'?"),
        (["study", "exprot"], "No such command 'exprot'. Did you mean 'export'?"),
        (["recipes", "lss"], "No such command 'lss'. Did you mean 'ls'?"),
        (["xyzzy"], "No such command 'xyzzy'. `jorge-tune -h` lists them."),
        (["study", "xyzzy"], "No such command 'xyzzy'. `jorge-tune study -h` lists them."),
    ],
)
def test_a_misspelt_command_gets_a_suggestion(arguments, said, capsys):
    assert run(*arguments) == 2
    assert said in capsys.readouterr().err


def test_a_misspelt_option_gets_a_suggestion(capsys):
    assert run("train", "digits/cnn-sgd", "--seeed", "1") == 2
    assert "--seed" in capsys.readouterr().err
    assert run("study", "run", "--trails", "1") == 2
    assert "--trials" in capsys.readouterr().err


@pytest.mark.parametrize("words", WITH_DEVICE)
def test_gpu_is_short_for_device_cuda_wherever_a_device_is_asked_for(words):
    options = [option for parameter in command_of(words).params for option in parameter.opts]
    assert ("--device" in options) is ("--gpu" in options) is True
    needed = ["x"] if any(isinstance(p, click.Argument) and p.required for p in command_of(words).params) else []
    for given, expected in (
        (["--gpu"], "cuda"),
        (["--gpu", "--device", "cuda:1"], "cuda:1"),
        (["--device", "cuda:1", "--gpu"], "cuda:1"),
        (["--device", "cpu"], "cpu"),
    ):
        with command_of(words).make_context(words, [*given, *needed]) as context:
            assert context.params["device"] == expected
    with pytest.raises(click.UsageError, match="--gpu and --device cpu contradict each other; give one of them"):
        command_of(words).make_context(words, ["--gpu", "--device", "cpu", *needed])


def test_no_other_command_takes_a_device():
    commands = [*_COMMANDS, *(f"study {name}" for name in STUDY_COMMANDS), "recipes ls", "recipes cp"]
    for words in commands:
        options = {option for parameter in command_of(words).params for option in parameter.opts}
        assert ("--device" in options) == (words in WITH_DEVICE), words


@pytest.mark.parametrize("name", ["gpu", "GPU", "gpu:0", "nvidia"])
def test_what_a_gpu_is_not_called_gets_one_sentence(name, capsys):
    assert run("train", "digits/cnn-sgd", "--device", name) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == (
        f"Error: Invalid value for '--device': must be auto, cpu, cuda or cuda:<number>, got {name!r}; "
        "use cuda, or --gpu, for an NVIDIA GPU"
    )


@pytest.mark.parametrize("name", ["cuda:99", "abacus", "mps"])
@pytest.mark.parametrize("command", ["train", "calibrate-freq", "probe"])
def test_a_device_that_is_not_here_gets_one_sentence(command, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(command, "digits/cnn-sgd", "--device", name) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "device" in line]
    assert f"{name!r}" in line
    assert len(line) < 200


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_gpu_without_a_gpu_gets_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("train", "--gpu", "digits/mlp-sgd") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no GPU found" in line
    assert not list(tmp_path.iterdir())


def completed(*words, incomplete=""):
    found = ShellComplete(_group, {}, "jorge-tune", "_JORGE_TUNE_COMPLETE").get_completions(list(words), incomplete)
    return [item.value for item in found]


@pytest.mark.parametrize("words", [*WITH_RECIPE, ["compare", "a.yaml"], ["study", "run"], ["recipes", "cp"]])
def test_shipped_names_are_completed(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert completed(*words, incomplete="digits/") == [n for n in shipped_recipes() if n.startswith("digits/")]
    assert completed(*words, incomplete="digits/mlp-s") == ["digits/mlp-sgd"]
    (tmp_path / "digits.yaml").write_text("")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine.yml").write_text("")
    assert "digits.yaml" in completed(*words, incomplete="digi")
    assert completed(*words, incomplete="runs/m") == ["runs/mine.yml"]
    for nothing in ("zzz", "no/where/", "\0"):  # the shell looks for files
        assert completed(*words, incomplete=nothing) == [nothing]


def test_commands_and_options_are_completed():
    assert completed(incomplete="st") == ["study"]
    assert completed("study", incomplete="re") == ["reap"]
    assert "--seed" in completed("train", incomplete="--se")


def test_a_shell_gets_its_script_and_completes_without_loading_anything_heavy():
    command = [sys.executable, "-X", "importtime", "-c", "from jorge_tune.cli import main; main()"]
    asked = {"_JORGE_TUNE_COMPLETE": "bash_complete", "COMP_WORDS": "jorge-tune train dig", "COMP_CWORD": "2"}
    answered = subprocess.run(
        command,
        env={"PATH": "", "PYTHONPATH": str(Path(jorge_tune.__file__).parents[1]), **asked},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert answered.stdout.split() == [f"plain,{name}" for name in shipped_recipes() if name.startswith("dig")]
    loaded = {line.rpartition("|")[2].strip() for line in answered.stderr.splitlines()}
    assert not loaded & {"torch", "numpy", "optuna", "plotly", "rich"}
