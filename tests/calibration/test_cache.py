"""Measurements on disk: kept, found again, and never trusted when damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jorge_tune.calibration.cache import CacheEntry, cache_folder, entry_path, keep, look_up
from jorge_tune.calibration.timings import (
    Iteration,
    IterationReading,
    Measurements,
    Memory,
    Profile,
    Round,
    Verification,
)

NAME = "0123456789abcdef"


def entry() -> CacheEntry:
    measurements = Measurements(
        (Round(IterationReading(0.09, 0.01), IterationReading(0.09, 0.014), IterationReading(0.09, 0.044)),) * 8,
        (Verification(5, (IterationReading(0.09, 0.02),) * 15, (IterationReading(0.09, 0.01),) * 6),),
        0.01,
    )
    profile = Profile({"plain": Iteration(0.0, 1.0, 2.0, 3.0)}, {"baseline": Memory(1, None)}, "a device", "1x8x8")
    return CacheEntry(NAME, {"device": {"kind": "cpu"}, "threads": 2}, "2026-01-31", measurements, profile)


def test_what_is_kept_is_found_again(tmp_path):
    assert look_up(tmp_path, NAME) == (None, None)
    assert keep(tmp_path, entry()) is None
    assert look_up(tmp_path, NAME) == (entry(), None)
    assert look_up(tmp_path, NAME[::-1]) == (None, None)
    assert keep(tmp_path, entry()) is None  # again, over the old one


def with_changes(**changes):
    return lambda text: json.dumps({**json.loads(text), **changes})


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:-5],
        lambda text: "[]",
        lambda text: "null",
        lambda text: "[" * 100_000,
        lambda text: "\x00binary",
        with_changes(format="2"),
        with_changes(fingerprint="another"),
        with_changes(measurements={"rounds": [[1, 2]], "verifications": [], "waiting": None}),
        with_changes(measurements=None),
        with_changes(profile={}),
        with_changes(facts=3),
    ],
)
def test_a_damaged_one_is_set_aside_and_named(tmp_path, damage):
    keep(tmp_path, entry())
    path = entry_path(tmp_path, NAME)
    content = damage(path.read_text())
    path.write_text(content)
    found, warning = look_up(tmp_path, NAME)
    assert found is None
    assert str(path) in warning
    assert "is damaged" in warning
    assert "measured again" in warning
    assert not path.exists()
    assert path.with_name(path.name + ".damaged").read_text() == content
    assert look_up(tmp_path, NAME) == (None, None)


def test_one_of_an_older_version_is_measured_anew_without_a_word(tmp_path):
    keep(tmp_path, entry())
    path = entry_path(tmp_path, NAME)
    path.write_text(with_changes(format=2)(path.read_text()))
    assert look_up(tmp_path, NAME) == (None, None)
    assert keep(tmp_path, entry()) is None
    assert look_up(tmp_path, NAME) == (entry(), None)


def test_bytes_that_are_no_text_are_damage(tmp_path):
    keep(tmp_path, entry())
    entry_path(tmp_path, NAME).write_bytes(b"\xff\xfe\x00")
    assert "is damaged" in look_up(tmp_path, NAME).warning


def test_a_folder_in_its_place_is_said(tmp_path):
    entry_path(tmp_path, NAME).mkdir(parents=True)
    assert "cannot be read" in look_up(tmp_path, NAME).warning
    assert "not stored for the next time" in keep(tmp_path, entry())


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    assert "not stored for the next time" in keep(tmp_path / "file", entry())


def test_where_it_lies(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder(None, {}) == Path("/home/someone/.cache/jorge-tune")
    assert cache_folder(None, {"XDG_CACHE_HOME": "/x"}) == Path("/x/jorge-tune")
    assert cache_folder(None, {"XDG_CACHE_HOME": "/x", "JORGE_TUNE_CACHE": "~/j"}) == Path("/home/someone/j")
    assert cache_folder(Path("asked"), {"JORGE_TUNE_CACHE": "/j"}) == Path("asked")
