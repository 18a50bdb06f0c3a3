"""What is printed: no raw control character of a stored text, closed and full streams, COLUMNS, `-o -`."""

from __future__ import annotations

import ast
import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jorge_tune.cli
from jorge_tune.cli import main
from jorge_tune.cli.output import print_json, print_table, print_text
from jorge_tune.recipe.recipe_files import parse_recipe, shipped_recipes
from jorge_tune.study.confirm import conclude
from jorge_tune.study.dashboard.notes import study_note
from jorge_tune.untrusted import visible
from tests.cli.test_report import made, place  # noqa: F401  # a fixture
from tests.compare.race_folders import COSINE, JORGE, SGD, STEP, write_race
from tests.study.searched import searched

NASTY = "a\x1b[31mred\x1b]0;title\x07\rb\x9b2J\u202egnp\u2066.exe\x7f[bold]x[/bold]"
WRITTEN_OUT = r"a\x1b[31mred\x1b]0;title\x07\rb\x9b2J\u202egnp\u2066.exe\x7f[bold]x[/bold]"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def run(*arguments):
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


def shell(command, **environment):
    """A command line in a shell, where `$jt` is the program: exit code, stdout, stderr."""
    environment = {**os.environ, "jt": f"{sys.executable} -m jorge_tune", **environment}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, env=environment)
    return done.returncode, done.stdout, done.stderr


# Text that others have written.


def test_control_characters_are_written_out_and_all_else_stays():
    assert visible(NASTY) == WRITTEN_OUT
    assert visible("één\tstück\nzwei 一 🙂") == "één\tstück\nzwei 一 🙂"
    assert visible("a\udcffb") == "a\\udcffb"
    assert visible(ValueError("x\x1b")) == "x\\x1b"
    assert not RAW.search(visible("".join(map(chr, range(0x3000)))).replace("\n", "").replace("\t", ""))


@pytest.mark.parametrize("columns", [None, "40"])
@pytest.mark.parametrize("terminal", [True, False])
def test_tables_and_sentences_show_them_on_a_terminal_and_off_it(capsys, monkeypatch, terminal, columns):
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    print_table([NASTY, "n"], [[NASTY, 1], ["plain", 2]], title=NASTY, right=["n"])
    print_text(NASTY)
    printed = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out) if terminal else capsys.readouterr().out
    assert not RAW.search(printed.replace("\n", ""))
    assert "[bold]x[/bold]" in "".join(printed.split())  # text, not markup
    if columns is None:
        assert printed.count(WRITTEN_OUT) == (4 if not terminal else printed.count(WRITTEN_OUT))


def test_json_is_printable_and_reads_back(capsys):
    print_json({NASTY: [NASTY]})
    printed = capsys.readouterr().out
    assert not RAW.search(printed.replace("\n", ""))
    assert json.loads(printed) == {NASTY: [NASTY]}


def test_one_place_prints():
    """A new command that printed by itself would print stored text raw."""
    for path in sorted(Path(jorge_tune.cli.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                prints = called in ("print", "click.echo", "click.secho", "sys.stdout.write", "sys.stderr.write")
                assert not prints or path.name == "output.py", f"{path.name}:{node.lineno}: {called}"


NAMED = NASTY + "<script>alert(1)</script><a href='https://x'>y</a>"


@pytest.fixture
def nasty_race(tmp_path):
    """Two contenders that ended, on a device whose name commands a terminal, and a run left for such a reason."""
    contenders = {
        "sgd": ({0: [0.5, 0.7, 0.8]}, SGD, COSINE, 1.0),
        "jorge": ({0: [0.5, 0.8, 0.9]}, JORGE, STEP, 2.0),
        "left": ({0: [0.5, 0.8, 0.9]}, JORGE, COSINE, 2.0),
    }
    folders = write_race(tmp_path / "runs", contenders)
    (folders[1] / "seed-0" / "environment.json").write_text(json.dumps({"device": NAMED}))
    records = folders[2] / "seed-0" / "records.jsonl"
    *lines, last = records.read_text().splitlines()
    lines.append(json.dumps({**json.loads(last), "outcome": "interrupted", "reason": NAMED}))
    records.write_text("\n".join(lines) + "\n")
    return folders


def test_names_and_reasons_of_runs_are_shown_not_obeyed(nasty_race, capsys):
    assert run("compare", *nasty_race) == 0
    shown = capsys.readouterr()
    assert f"Seconds are not compared: the runs trained on {WRITTEN_OUT}" in shown.out
    assert f"left out: {nasty_race[2]}/seed-0: interrupted ({WRITTEN_OUT}" in shown.out
    assert not RAW.search((shown.out + shown.err).replace("\n", ""))
    assert run("compare", *nasty_race, "--format", "json") == 0
    printed = capsys.readouterr().out
    assert not RAW.search(printed.replace("\n", ""))
    assert NAMED in " ".join(json.loads(printed)["notes"])


def test_a_page_shows_them_too_and_its_twin_keeps_the_text(nasty_race, tmp_path):
    assert run("report", *nasty_race, "-o", tmp_path / "page.html") == 0
    assert run("compare", *nasty_race, "--plot", tmp_path / "plot.html") == 0
    for name in ("page.html", "plot.html"):
        page = (tmp_path / name).read_text()
        body = page[page.rindex("<body>") :]
        body = body[: body.index("<footer>")]
        assert not RAW.search(body.replace("\n", ""))
        assert "<script>alert" not in body
        assert "<a href=" not in body.replace('<a href="#', "")
        assert WRITTEN_OUT + "&lt;script&gt;" in body
    assert NAMED in " ".join(json.loads((tmp_path / "page.json").read_text())["data"]["comparison"]["notes"])


def test_what_a_study_holds_is_shown_not_obeyed(tmp_path, capsys):
    """Its notes, reasons and stop requests come from a storage that others write to."""
    study = searched(tmp_path / "study", confirm_seeds=(1, 2), notes=(NASTY,))
    conclude(study.opened)
    study.opened.request_stop("finish", NASTY)
    everything = ""
    for arguments in (["status"], ["best"], ["add", "--set", "lr=0.1"], ["export", "--as", "json", "-o", "-"]):
        run("study", *arguments, *place(study)[: 4 if arguments == ["status"] else 2])
        shown = capsys.readouterr()
        everything += shown.out + shown.err
    assert everything.count(WRITTEN_OUT) >= 2
    assert not RAW.search(everything.replace("\n", ""))
    assert run("report", "small", *place(study), "-o", tmp_path / "study.html") == 0
    page = (tmp_path / "study.html").read_text()
    body = page[page.rindex("<body>") : page.index("<footer>")]
    assert WRITTEN_OUT in body
    assert not RAW.search(body.replace("\n", ""))
    note = study_note(json.loads((tmp_path / "study.json").read_text()), "small")
    assert not RAW.search(note.replace("\n", ""))
    assert r"\[bold\]x" in note


def test_faults_of_files_and_arguments_are_shown_not_obeyed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "\x1b[31m.yaml").write_text(f"name: x\n{json.dumps(NASTY)}: 1\n")
    assert run("validate", "\x1b[31m.yaml") == 2
    assert run("train", "\x1b[31m.yaml") == 2
    assert run("train", "nowhere\x1b[2J\u202e") == 2
    assert run("\x1b[31mtrain") == 2
    assert run("train", "digits/cnn-sgd", "--device", "gpu\x1b[31m") == 2
    shown = capsys.readouterr()
    assert r"\x1b[31m.yaml:2:1" in shown.out + shown.err
    assert not RAW.search((shown.out + shown.err).replace("\n", ""))


def test_the_text_of_an_unexpected_exception_is_shown_not_obeyed(monkeypatch, capsys):
    def fail(*arguments, **options):
        raise RuntimeError(NASTY)

    monkeypatch.setattr(jorge_tune.cli._group, "main", fail)
    assert run("doctor") == 1
    told = capsys.readouterr().err
    assert told.startswith("Traceback")
    assert told.endswith(f"RuntimeError: {WRITTEN_OUT}\n")


# Streams that are closed, full, or left.


@pytest.mark.parametrize(
    ("command", "code", "out", "err"),
    [
        ("$jt recipes ls >&-", 0, "", ""),
        ("$jt recipes ls 2>&- <&- | wc -l", 0, str(len(shipped_recipes()) + 2), ""),
        ("$jt validate digits/cnn-sgd <&- >&- 2>&-", 0, "", ""),
        ("$jt validate nowhere <&- >&- 2>&-", 2, "", ""),
        ("$jt train nowhere 2>/dev/full", 2, "", ""),
        ("$jt recipes ls >/dev/full", 1, "", "stdout cannot be written (No space left on device)"),
        ("$jt --help >/dev/full", 1, "", "output: No space left on device"),
        ("$jt bootstrap digits/cnn-sgd -o - >&-", 1, "", "stdout is closed, so -o - cannot write to it"),
        ("$jt recipes cp digits/cnn-sgd - | head -1; exit ${PIPESTATUS[0]}", 0, "# scikit-learn's 8x8 digits", ""),
        ("$jt recipes ls | true; exit ${PIPESTATUS[0]}", 1, "", ""),
        ("$jt bootstrap digits/cnn-sgd -o cnn.yaml 2>/dev/full | tail -1; test -s cnn.yaml", 0, "The schedule", ""),
    ],
)
def test_closed_full_and_left_streams(tmp_path, command, code, out, err):
    found = shell(f"cd {tmp_path} && export PYTHONPATH={os.getcwd()} && {command}", PYTHONPATH=os.getcwd())
    assert found[0] == code, found
    assert found[1].strip().startswith(out), found
    assert found[2].strip().startswith(err), found
    assert "Traceback" not in found[2]
    assert "Exception ignored" not in found[2]
    assert err or not found[2].replace("wrote cnn.yaml", "").strip() or "Error" in found[2] or ">&-" not in command


def test_a_file_does_not_take_the_place_of_a_closed_stream(tmp_path):
    """Descriptor 1 is free where stdout is closed: the next file opened would get it, and all that is printed."""
    folder = tmp_path / "run"
    command = f"$jt train digits/mlp-sgd --set epochs=1 --out {folder} --device cpu >&- 2>&-"
    code, _, _ = shell(command, PYTHONPATH=os.getcwd())
    assert code == 0
    lines = (folder / "records.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in (lines[0], lines[-1])] == ["start", "end"]
    assert "outcome" not in (folder / "log.txt").read_text().splitlines()[0]


def test_a_locale_without_the_character_prints_it_written_out(tmp_path):
    (tmp_path / "一.yaml").write_text("name: x\n")
    command = f"cd {tmp_path} && $jt validate 一.yaml"
    code, out, err = shell(command, PYTHONPATH=os.getcwd(), PYTHONIOENCODING="latin-1")
    assert (code, err) == (2, "")
    assert out.startswith(r"\u4e00.yaml:")


# COLUMNS.


def test_off_a_terminal_columns_sets_the_width_of_tables_and_sentences(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert run("recipes", "ls") == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60
    monkeypatch.setenv("COLUMNS", "300")
    assert run("recipes", "ls") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(shipped_recipes()) + 2  # it fits: as without
    monkeypatch.delenv("COLUMNS")
    assert run("recipes", "ls") == 0
    assert capsys.readouterr().out.splitlines() == lines
    for value in ("", "0", "-5", "wide"):
        monkeypatch.setenv("COLUMNS", value)
        assert run("recipes", "ls") == 0
        assert capsys.readouterr().out.splitlines() == lines


def test_fault_lines_and_json_are_whole_whatever_columns_says(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    long = tmp_path / ("long" * 30 + ".yaml")
    long.write_text("name: x\nepoch: 3\n")
    assert run("train", long) == 2
    assert f"{long}:2:1: epoch: unknown key" in capsys.readouterr().err
    assert run("validate", long, "--format", "json") == 2
    assert json.loads(capsys.readouterr().out)[0]["recipe"] == str(long)


# `-o -`.


def test_bootstrap_prints_the_recipe_alone_and_talks_on_stderr(tmp_path, monkeypatch, capfdbinary):
    monkeypatch.chdir(tmp_path)
    assert run("bootstrap", "digits/cnn-sgd", "-o", "-") == 0
    shown = capfdbinary.readouterr()
    assert parse_recipe(shown.out.decode(), "stdout").recipe.name == "cnn-jorge"
    assert b"weight_decay" in shown.err
    assert b"fields are unchanged; --all shows them." in shown.err
    assert list(tmp_path.iterdir()) == []
    assert run("bootstrap", "digits/cnn-sgd", "-o", "-", "--format", "json") == 2
    assert b"--format json" in capfdbinary.readouterr().err


def test_recipes_cp_prints_the_file_as_it_is(capfdbinary):
    assert run("recipes", "cp", "digits/cnn-sgd", "-") == 0
    assert capfdbinary.readouterr().out == shipped_recipes()["digits/cnn-sgd"].read_bytes()


def test_a_report_is_a_page_on_stdout(nasty_race, tmp_path, monkeypatch, capfdbinary):
    monkeypatch.chdir(tmp_path)
    assert run("report", *nasty_race, "-o", "-") == 0
    shown = capfdbinary.readouterr()
    assert shown.out.startswith(b"<!doctype html>")
    assert shown.out.endswith(b"</body></html>\n")
    assert shown.err == b""
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_studies_are_exported_to_stdout(made, capfdbinary):  # noqa: F811
    storage = place(made)[:2]
    assert run("study", "export", *storage, "--as", "csv", "-o", "-") == 0
    rows = list(csv.DictReader(capfdbinary.readouterr().out.decode().splitlines()))
    assert [row["number"] for row in rows] == [str(number) for number in range(len(rows))]
    assert run("study", "export", *storage, "--as", "json", "-o", "-") == 0
    assert len(json.loads(capfdbinary.readouterr().out)["trials"]) == len(rows)
    assert run("study", "export", *storage, "--as", "recipe", "--trial", "0", "-o", "-") == 0
    assert parse_recipe(capfdbinary.readouterr().out.decode(), "stdout").recipe.name.endswith("-trial-0")
    assert run("study", "best", *storage, "-o", "-") == 0
    best = parse_recipe(capfdbinary.readouterr().out.decode(), "stdout").recipe
    assert run("study", "best", *storage) == 0
    assert parse_recipe(capfdbinary.readouterr().out.decode(), "stdout").recipe == best
    for refused in (["--as", "sqlite"], []):
        assert run("study", "export", *storage, *refused, "-o", "-") == 2
        assert b"add --as csv, --as json or --as recipe" in capfdbinary.readouterr().err
    assert not Path("-").exists()
