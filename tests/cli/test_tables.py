"""Tables: whole off a terminal, honest JSON."""

import json
import math
import re

from jorge_tune.cli.output import plain_table, print_json, print_table


def test_off_a_terminal_a_long_cell_stays_on_its_line(capsys):
    long = "a reason " * 60
    print_table(["field", "reason"], [["lr", long.strip()], ["weight_decay", None]], title="Changes")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Changes"
    assert lines[3] == "lr            " + long.strip()
    assert lines[4] == "weight_decay  -"


def test_numbers_flush_right_and_line_breaks_folded():
    text = plain_table(["name", "epochs"], [["a\nb", "7"], ["c", "12.5"]], right=["epochs"])
    assert text.splitlines() == ["name  epochs", "----  ------", "a; b       7", "c       12.5"]


def test_a_table_without_rows_shows_its_head():
    assert plain_table(["name", "n"], []).splitlines() == ["name  n", "----  -"]


def test_markup_in_cells_is_text_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_table(["[bold]name"], [["[red]x[/red]"]])
    assert "[red]x[/red]" in capsys.readouterr().out


def test_json_has_no_bare_nan(capsys):
    print_json({"a": [math.nan, math.inf, 1.5], "b": {"c": -math.inf}})
    assert json.loads(capsys.readouterr().out) == {"a": ["nan", "inf", 1.5], "b": {"c": "-inf"}}


def test_a_table_too_wide_for_its_terminal_is_turned(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "46")
    rows = [["sgd", "1 [1, 2]", "0.95"], ["jorge", "3 [3, 4]", "0.97"]]
    print_table(["contender", "epochs to target", "best of all values"], rows, right=["best of all values"], turn=True)
    plain = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out)
    lines = [line.split() for line in plain.splitlines() if line.strip()]
    assert lines[0] == ["contender", "sgd", "jorge"]
    assert lines[2] == ["epochs", "to", "target", "1", "[1,", "2]", "3", "[3,", "4]"]
    print_table(["a", "b"], [["1", "2"]], turn=True)
    plain = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out)
    assert plain.split()[:2] == ["a", "b"]


def test_a_narrow_terminal_breaks_no_word_and_no_number(capsys, monkeypatch):
    """Columns without room follow below, beside the first again; nothing is lost."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    headings = ["optimizer", "memory", "x params", "refresh", "per step"]
    rows = [["jorge (planned)", "291 MiB", "4.98", "473 G", "312 G"], ["sketchy", "5.54 MiB", "2.05", "503 G", "255 G"]]
    for width in (80, 60, 50, 40, 30):
        monkeypatch.setenv("COLUMNS", str(width))
        print_table(headings, rows, title="The same model with", right=headings[1:])
        plain = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out)
        assert max(map(len, plain.splitlines())) <= width
        assert all(cell in plain for row in rows for cell in row[1:]), width
        words = plain.split()
        assert {"optimizer", "memory", "params", "refresh", "jorge", "(planned)", "sketchy"} <= set(words), width
        assert words.count("optimizer") == {80: 1, 60: 1, 50: 1, 40: 2, 30: 2}[width]
