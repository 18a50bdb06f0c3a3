"""Tables: whole off a terminal, honest JSON."""

import json
import math

from jorge_tune.cli.tables import plain_table, print_json, print_table


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
