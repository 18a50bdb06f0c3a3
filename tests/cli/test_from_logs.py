"""`compare --from-logs` and `report --from-logs`: logs of other programs as runs, with the verdict and the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jorge_tune.cli import main
from jorge_tune.compare.run_directories import read_run
from jorge_tune.records import of_kind, read_records
from tests.logs.written import HISTORY, LIGHTNING, ULTRALYTICS, event_file, trainer_state, written


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def csv_log(folder: Path, name: str, seed: int, last: float) -> None:
    rows = "".join(f"{epoch},{last * (1 - 0.5**epoch):.4f},{10.0 * epoch}\n" for epoch in range(1, 6))
    written(folder, f"{name}/seed-{seed}/history.csv", f"epoch,val_acc,seconds\n{rows}")


@pytest.fixture
def logs(here: Path) -> Path:
    for seed in range(3):
        csv_log(here, "old", seed, 0.8 + seed / 100)
        csv_log(here, "new", seed, 0.9 + seed / 100)
    return here


def test_logs_are_compared_as_runs_and_stay_as_they_are(logs, capsys):
    before = {path: path.read_bytes() for path in logs.rglob("*.csv")}
    pattern = "{}/seed-*/history.csv"
    arguments = [f"sgd={pattern.format('old')}", f"jorge={pattern.format('new')}", "--format", "json"]
    assert run("compare", "--from-logs", *arguments) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["metric"], data["part"]) == ("acc", "validation")
    assert [row["runs"] for row in data["contenders"]] == [3, 3]
    paired = data["contenders"][1]["against_first"]
    assert (paired["pairs"], paired["epochs"]["wins"]) == (3, 3)
    assert paired["second_ratio"] == 0.6  # 30 s against 50 s: the log's own seconds
    assert "jorge against sgd: won in epochs" in " ".join(data["verdict"])
    assert {path: path.read_bytes() for path in before} == before

    made = read_run(logs / "runs" / "jorge" / "seed-2")
    assert (made.outcome, made.seed, made.clock, made.recipe.epochs) == ("finished", 2, "log", 5)
    assert (logs / "runs/jorge/seed-2/logs/history.csv").read_bytes() == before[logs / "new/seed-2/history.csv"]
    assert run("compare", "--from-logs", *arguments) == 0  # made anew
    assert run("compare", "runs/sgd", "runs/jorge") == 0  # they are run directories like any other


def test_a_report_of_logs_of_several_formats(here, capsys):
    written(here, "hf/checkpoint-200/trainer_state.json", trainer_state(HISTORY))
    written(here, "lightning/metrics.csv", LIGHTNING)
    arguments = ["hf=hf", "pl=lightning", "--metric", "loss", "-o", "page.html", "--runs", "made"]
    assert run("report", "--from-logs", *arguments) == 0
    twin = json.loads(Path("page.json").read_text())
    said = " ".join(line["text"] for line in twin["verdict"])
    assert "Seconds are not compared: not all logs have them." in said
    assert read_run(Path("made/pl/seed-0")).evaluations["validation"][-1].metrics["loss"] == 1.3


def test_a_recipe_in_the_place_of_a_name_is_the_runs_recipe(logs):
    Path("sgd.yaml").write_text(
        "version: 1\nname: tuned\noptimizer: {name: sgd, lr: 0.1}\nepochs: 5\nbatch_size: 64\n"
        "target: {metric: acc, value: 0.7}\n"
    )
    assert run("compare", "--from-logs", "sgd.yaml=old", "jorge=new") == 0
    made = read_run(Path("runs/tuned/seed-1"))
    assert (made.recipe.optimizer.name, made.recipe.seed) == ("sgd", 1)


def test_columns_scale_and_format_can_be_given(here, capsys):
    written(here, "a.txt", "E|x\nacc of epoch 0: 40\nacc of epoch 1: 50\n")
    pattern = r"acc of epoch (?P<epoch>\d+): (?P<top1>\d+)"
    settings = ["--log-format", "stdout", "--log", f"pattern={json.dumps(pattern)}", "--log", "scale.top1=0.01"]
    assert run("compare", "--from-logs", "a=a.txt", *settings, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["contenders"][0]["scores"][0]["final"] == 0.5
    written(here, "b.csv", "E,hit\n1,0.25\n2,0.5\n")
    assert run("compare", "--from-logs", "b=b.csv", "--log", "columns={epoch: E, top1: hit}", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["metric"] == "top1"


def test_tensorboard_logs_have_the_seconds_of_their_events(here):
    pytest.importorskip("tensorboard")
    for name, last in (("a", 0.5), ("b", 0.75)):
        events = [(100.0, 0, "val/acc", 0.0), (110.0, 10, "val/acc", 0.25), (130.0, 20, "val/acc", last)]
        event_file(here / name / "events.out.tfevents.1.host", events)
    assert run("compare", "--from-logs", "a=a", "b=b") == 0
    made = read_run(Path("runs/b/seed-0"))
    assert [reading.train_seconds for reading in made.evaluations["validation"]] == [0.0, 10.0, 30.0]
    assert made.clock == "log"


def test_a_log_with_epochs_twice_after_a_resume_is_read_with_a_note(here, capsys):
    written(here, "a.csv", "epoch,val_acc\n1,0.1\n2,0.2\n3,0.3\n2,0.25\n3,0.35\n")
    assert run("compare", "--from-logs", "a=a.csv") == 0
    assert (
        "it goes back once, as after a resume: of what stands there twice, the later counts" in capsys.readouterr().out
    )
    kept = [
        record["metrics"]["acc"] for record in of_kind(read_records(Path("runs/a/seed-0/records.jsonl")), "evaluation")
    ]
    assert kept == [0.1, 0.25, 0.35]


def test_a_log_that_ends_in_no_number_is_a_run_that_diverged(here, capsys):
    written(here, "a.csv", "epoch,val_loss\n1,0.5\n2,0.4\n")
    written(here, "b.csv", "epoch,val_loss\n1,0.5\n2,nan\n")
    assert run("compare", "--from-logs", "a=a.csv", "b=b.csv") == 0
    assert read_run(Path("runs/b/seed-0")).outcome == "diverged"


@pytest.mark.parametrize(
    ("content", "arguments", "words"),
    [
        ("", ["a=a.csv"], "a.csv: is empty"),
        ("epoch,val_acc\n1,0.5,0.6\n", ["a=a.csv"], "a.csv:2: has 3 values for 2 columns"),
        ("epoch,loss\n1,0.5\n", ["a=a.csv"], "a.csv: has no evaluation, only epoch; loss; name one, as --log columns."),
        ("epoch,val_top1\n1,50\n", ["a=a.csv"], "divide it with --log scale.top1=0.01"),
        ("epoch,val_acc\n1,0.5\n", ["a.csv"], "--from-logs: must be NAME=LOG or NAME=LOG,LOG..., got 'a.csv'"),
        ("epoch,val_acc\n1,0.5\n", ["a/b=a.csv"], "--from-logs: the name must be 1 to 100 letters"),
        ("epoch,val_acc\n1,0.5\n", ["a=*.txt"], "--from-logs: nothing matches '*.txt'"),
        ("epoch,val_acc\n1,0.5\n", ["a=b.csv"], "b.csv: there is no such file or directory"),
        ("epoch,val_acc\n1,0.5\n", ["a=a.csv", "a=a.csv"], "a has two logs of seed 0"),
        ("epoch,val_acc\n1,0.5\n", ["a=a.csv", "--log-format", "jsonl"], "a.csv:1: not valid JSON"),
        ("epoch,val_acc\n1,0.5\n", ["a=a.csv", "--log", "colums.a=b"], "--log colums: unknown key"),
        ("epoch,val_acc\n1,0.5\n", ["a=a.csv", "--log", "scale"], "--log 'scale': must be KEY=VALUE"),
        ("epoch,val_acc\n1,0.5\n", ["a=a.csv", "--set", "epochs=3"], "--from-logs: trains nothing"),
    ],
)
def test_bad_input_is_one_message_and_leaves_no_half_run(here, capsys, content, arguments, words):
    written(here, "a.csv", content)
    assert run("compare", "--from-logs", *arguments) == 2
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err
    assert not Path("runs/a/seed-0").exists()


def test_a_directory_that_holds_a_real_run_is_refused(logs, capsys):
    written(logs, "runs/sgd/seed-0/recipe.yaml", "years of work")
    assert run("compare", "--from-logs", "sgd=old", "jorge=new") == 2
    assert "is there already, and not made from a log; choose another directory" in capsys.readouterr().err
    assert Path("runs/sgd/seed-0/recipe.yaml").read_text() == "years of work"


def test_settings_of_logs_without_logs_are_refused(capsys):
    assert run("compare", "digits/cnn-sgd", "--log-format", "csv") == 2
    assert "--log-format and --log: say how logs are read, and need --from-logs" in capsys.readouterr().err


def test_ultralytics_seconds_are_its_own(here):
    written(here, "a/results.csv", ULTRALYTICS)
    assert run("compare", "--from-logs", "a=a", "--metric", "mAP50(B)") == 0
    assert read_run(Path("runs/a/seed-0")).train_seconds == 48.12
