"""`jorge-tune validate`: all faults of all files."""

import json

import pytest

from jorge_tune.cli import main

GOOD = "name: good\noptimizer: {name: sgd, lr: 0.1}\nepochs: 3\nbatch_size: 8\n"
UNKNOWN_MODEL = GOOD + "task: {kind: classification, model: {name: no_such_model}, data: {name: digits}}\n"


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["validate", *arguments])
    return ended.value.code


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "model.yaml").write_text(UNKNOWN_MODEL)
    (tmp_path / "late.yaml").write_text(GOOD + "schedule: {name: step, milestones: [5]}\n")
    (tmp_path / "bad.yaml").write_text(GOOD.replace("lr: 0.1", "lr: -1").replace("epochs", "epoch"))
    return tmp_path


def test_good_recipes_pass(files, capsys):
    assert run("good.yaml", "model.yaml", "digits/cnn-sgd") == 0
    assert capsys.readouterr().out.splitlines() == ["good.yaml: fine", "model.yaml: fine", "digits/cnn-sgd: fine"]


def test_all_faults_of_all_files_are_reported(files, capsys):
    assert run("bad.yaml", "good.yaml", "missing.yaml", ".") == 2
    assert capsys.readouterr().out.splitlines() == [
        "bad.yaml:2:28: optimizer.lr: must be greater than 0, got '-1'",
        "bad.yaml:3:1: epoch: unknown key (did you mean 'epochs'?)",
        "good.yaml: fine",
        "'missing.yaml': neither a file nor a shipped recipe; `jorge-tune recipes ls` lists the shipped ones",
        ".: is a directory; a recipe file is expected",
    ]


def test_a_warning_is_told_and_passes(files, capsys):
    assert run("late.yaml") == 0
    assert capsys.readouterr().out.splitlines() == [
        "warning: late.yaml:5:24: schedule.milestones: not reached: 5; training ends after epoch 3",
        "late.yaml: fine, with warnings",
    ]


def test_a_kind_that_cannot_be_trained_is_a_fault_and_can_still_be_bootstrapped(files, capsys):
    (files / "own.yaml").write_text(GOOD + "task: {kind: language, model: {name: m}, data: {name: d}}\n")
    assert run("coco/deeplabv3-sgd", "coco/maskrcnn-jorge", "own.yaml", "digits/mlp-sgd") == 2
    lines = capsys.readouterr().out.splitlines()
    bootstrapped = "`bootstrap` accepts the recipe"
    own_loop = "your own loop can train it with jorge_tune.optimizer_from_recipe"
    assert [line.partition("this version")[2] for line in lines[:3]] == [
        f" cannot train a segmentation task, only classification, python and command; {bootstrapped}, and {own_loop}",
        f" cannot train a detection task, only classification, python and command; {own_loop}",
        f" cannot train a language task, only classification, python and command; {bootstrapped}, and {own_loop}",
    ]
    assert "own.yaml:5:8: task.kind: this version" in lines[2]
    assert lines[3:] == ["digits/mlp-sgd: fine"]
    with pytest.raises(SystemExit) as ended:
        main(["bootstrap", "coco/deeplabv3-sgd", "-o", "made.yaml"])
    assert ended.value.code in (0, None)
    assert (files / "made.yaml").exists()


def test_of_many_faults_the_first_twenty_are_shown_and_the_rest_counted(files, capsys):
    (files / "many.yaml").write_text(GOOD + "".join(f"odd{number}: 1\n" for number in range(30)))
    assert run("many.yaml") == 2
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 21
    assert lines[19].startswith("many.yaml:24:1: odd19: unknown key")
    assert lines[20] == "many.yaml: 30 faults in all, 10 more than these; fix these first"
    assert run("many.yaml", "--format", "json") == 2
    assert len(json.loads(capsys.readouterr().out)[0]["faults"]) == 30


def test_json_has_every_fault_with_its_place(files, capsys):
    assert run("bad.yaml", "late.yaml", "--format", "json") == 2
    bad, late = json.loads(capsys.readouterr().out)
    assert bad["faults"][0]["path"] == "optimizer.lr"
    assert (bad["faults"][0]["line"], bad["faults"][0]["column"]) == (2, 28)
    assert late["faults"] == []
    assert late["warnings"][0]["path"] == "schedule.milestones"


def test_no_file_is_a_usage_error(capsys):
    assert run() == 2
    assert "Missing argument" in capsys.readouterr().err
