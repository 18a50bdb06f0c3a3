"""Prose is broken between words on a terminal and left whole elsewhere."""

from __future__ import annotations

import sys

from jorge_tune.cli.output import print_text

SENTENCE = "jorge against sgd: won in epochs to top1 0.9777 (0.50 times in the median; earlier on 3 of 3 seeds)"


def test_off_a_terminal_lines_stay_whole(capsys):
    print_text(f"{SENTENCE}\nsecond")
    assert capsys.readouterr().out == f"{SENTENCE}\nsecond\n"


def test_on_a_terminal_words_stay_whole(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    print_text(SENTENCE)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 2
    assert all(len(line) <= 40 for line in lines)
    assert " ".join(line.strip() for line in lines) == SENTENCE
