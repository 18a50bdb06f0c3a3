"""Run directories that were edited, torn or replaced: one message or a result, never a crash or a wrong resume.

Every input is made from a seed. `report` and `compare` read a damaged run beside a whole one, which is still compared;
`train --resume` is asked to go on with a run of its own recipe.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from jorge_tune.cli import main
from jorge_tune.recipe.recipe_files import write_recipe
from jorge_tune.training import train
from jorge_tune.training.checkpoint import load_checkpoint
from tests.compare.race_folders import JORGE, write_run
from tests.training.small_recipes import digits_recipe

_HOSTILE: list[str] = [
    "null", "true", "-1", "0", "1", "1.5", '"x"', '""', "[]", "{}", "[[]]", '{"a": 1}', "9" * 400, "1e999", "-1e-320",
    "NaN", "Infinity", '"nan"', '"inf"', r'"\ud800"', r'"\u0000"', r'"\u001b[31m"', "9007199254740993", "2.0e308",
    "[" * 30 + "]" * 30, "[" * 5000 + "]" * 5000, '"' + "x" * 100_000 + '"', "1e15", "[1, 2", '{"a": 1, "a": 2}',
]  # fmt: skip


def _flip(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 8))):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _cut(content: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(content))
    return content[:start] + content[start + chance.choice((1, 5, 60, len(content))) :]


def _insert(content: bytes, chance: random.Random) -> bytes:
    put = chance.choice((b"\0", b"\0" * 4096, b"\xff\xfe", b"\n", b"\r\n", b"{", b'"', b"\xef\xbb\xbf", content[:200]))
    at = chance.randrange(len(content) + 1)
    return content[:at] + put + content[at:]


def _lines(content: bytes, chance: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    first, second = chance.randrange(len(lines)), chance.randrange(len(lines))
    what = chance.choice(("twice", "gone", "exchanged", "shuffled", "repeated"))
    if what == "twice":
        lines.insert(second, lines[first])
    elif what == "gone":
        del lines[first]
    elif what == "exchanged":
        lines[first], lines[second] = lines[second], lines[first]
    elif what == "shuffled":
        chance.shuffle(lines)
    else:
        lines *= 50
    return b"".join(lines)


def _value(content: bytes, chance: random.Random) -> bytes:
    """Another value, or no value, or another key, somewhere in one of the JSON lines, or of the lines of YAML."""
    lines = content.decode().splitlines()
    number = chance.randrange(len(lines))
    try:
        data = json.loads(lines[number])
    except ValueError:
        name, colon, _ = lines[number].partition(":")
        lines[number] = name + (colon or ":") + " " + chance.choice(_HOSTILE)
        return "\n".join([*lines, ""]).encode()
    place: Any = data
    while True:
        key = chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if not isinstance(place[key], (dict, list)) or not place[key] or chance.random() < 0.5:
            break
        place = place[key]
    how = chance.random()
    if how < 0.15:
        del place[key]
    elif how < 0.25 and isinstance(place, dict):
        place["x" + key] = place.pop(key)
    else:
        place[key] = "@here@"
    lines[number] = json.dumps(data).replace('"@here@"', chance.choice(_HOSTILE))
    return "\n".join([*lines, ""]).encode()


def _nothing(content: bytes, chance: random.Random) -> bytes:
    return chance.choice((b"", b"\n", b"[]\n", b"null\n", b"\0" * len(content), b"[" * 100_000, b"x" * 300_000))


_BYTES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    one.__name__.strip("_"): one for one in (_flip, _cut, _insert, _lines, _value, _nothing)
}


def _as_link(path: Path, chance: random.Random) -> None:
    outside = path.parents[2] / f"outside-{path.name}"
    path.rename(outside)
    path.symlink_to(outside)


def _as_dangling_link(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _as_loop(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _as_pipe(path: Path, chance: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def _as_folder(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _as_huge_hole(path: Path, chance: random.Random) -> None:
    with path.open("r+b") as file:
        file.truncate(chance.choice((2**31, 2**40)))


def _as_gone(path: Path, chance: random.Random) -> None:
    path.unlink()


_LAYOUT: dict[str, Callable[[Path, random.Random], None]] = {
    one.__name__.removeprefix("_as_"): one
    for one in (_as_link, _as_dangling_link, _as_loop, _as_pipe, _as_folder, _as_huge_hole, _as_gone)
}


def _run(*arguments: object) -> int:
    """The exit code. Whatever is no error of ours goes through, and fails the test."""
    with pytest.raises(SystemExit) as ended:
        main([str(one) for one in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def _spoil(path: Path, how: str, chance: random.Random) -> bool:
    """Damage a file; whether it is another one now."""
    if how in _LAYOUT:
        _LAYOUT[how](path, chance)
        return True
    before = path.read_bytes()
    after = _BYTES[how](before, chance)
    path.write_bytes(after)
    return before != after


_PLACES = [*_BYTES, *_LAYOUT]


def _seeds(how: str, seldom: range) -> range:
    """What no seed changes is tried twice."""
    return seldom if how in _BYTES else range(min(2, seldom.start), min(2, seldom.stop))


@pytest.fixture(scope="module")
def race(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, and one to be spoilt."""
    root = tmp_path_factory.mktemp("race")
    write_run(root / "whole" / "seed-0", [0.5, 0.7, 0.8], test=0.8, device="cpu")
    spoilt = write_run(root / "spoilt" / "seed-0", [0.5, 0.8, 0.9], name="jorge", optimizer=JORGE, device="cpu")
    (spoilt / "environment.json").write_text(json.dumps({"device": "cpu", "threads": 2, "versions": {"torch": "2"}}))
    curve = {"curve": [[1, 2.0], [10, 1.1]], "baseline_seconds": 1.0, "overhead": 0.1, "verified": None}
    found = {"interval": 10, "outcome": "measured", "reason": "", "recipe": "jorge", "device": "cpu"}
    told = {"measured_on": "2026-01-31", "fingerprint": "0", "notes": [], "warnings": []}
    (spoilt / "calibration.json").write_text(json.dumps(curve | found | told))
    return root


def _read_the_race(race: Path, folder: Path, name: str, how: str, seeds: range, capsys: Any) -> int:
    compared = 0
    for seed in seeds:
        what, chance = f"{name}, {how}, seed {seed}", random.Random(f"{name} {how} {seed}")
        root = folder / str(seed)
        shutil.copytree(race, root)
        _spoil(root / "spoilt" / "seed-0" / name, how, chance)
        page = ("-o", root / "page.html") if seed % 4 == 0 else ()
        for command in (("report", "--format", "json", *page), ("compare", "--format", "json")):
            status = _run(*command, root / "whole", root / "spoilt")
            said = capsys.readouterr()
            assert status in (0, 2), f"{what}: exit code {status}"
            assert "Traceback" not in said.err, what
            if status == 0:
                names = [one["name"] for one in json.loads(said.out).get("contenders", [{"name": "sgd"}])]
                assert "sgd" in names, what
                compared += 1
            else:
                assert str(root / "spoilt") in said.err or "share no metric" in said.err, f"{what}: {said.err[:300]}"
                assert len(said.err.splitlines()) == 1, f"{what}: {said.err[:300]}"
        alone = _run("compare", root / "spoilt")
        assert alone in (0, 2), what
        assert len(capsys.readouterr().err.splitlines()) <= 1, what
        shutil.rmtree(root)
    return compared


_READ = ("records.jsonl", "environment.json", "recipe.yaml", "calibration.json")


@pytest.mark.parametrize("how", _PLACES)
@pytest.mark.parametrize("name", _READ)
def test_a_damaged_run_is_named_and_the_others_are_compared(
    race: Path, tmp_path: Path, name: str, how: str, capsys: Any
) -> None:
    compared = _read_the_race(race, tmp_path, name, how, _seeds(how, range(3)), capsys)
    assert compared >= 3 or (name, how) == ("records.jsonl", "gone")  # which is no run directory


@pytest.mark.slow
@pytest.mark.parametrize("how", _BYTES)
@pytest.mark.parametrize("name", _READ)
def test_a_damaged_run_is_named_whatever_the_damage(
    race: Path, tmp_path: Path, name: str, how: str, capsys: Any
) -> None:
    assert _read_the_race(race, tmp_path, name, how, range(3, 40), capsys) > 40


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A directory with a recipe and its stopped run, and the weights that the run comes to."""
    root, recipe = tmp_path_factory.mktemp("stopped"), digits_recipe()
    write_recipe(root / "recipe.yaml", recipe)
    train(recipe, root / "runs" / "run", max_steps=9)
    train(recipe, root / "runs" / "run", resume=True, max_steps=17)
    shutil.copytree(root / "runs" / "run", root / "finished")
    train(recipe, root / "finished", resume=True)
    weights = _weights(root / "finished")
    shutil.rmtree(root / "finished")
    return root, weights


def _weights(run: Path) -> dict[str, Any]:
    checkpoint = load_checkpoint(run / "checkpoint")
    assert checkpoint is not None
    assert checkpoint.position.step == 18
    return checkpoint.model


def _contents(run: Path) -> dict[Path, object]:
    """What a directory holds; of what is larger than anything of ours, the size."""
    files = [path for path in run.rglob("*") if path.is_file() and not path.is_symlink()]
    return {path: size if (size := path.stat().st_size) > 2**24 else path.read_bytes() for path in files}


def _resume(stopped: tuple[Path, dict[str, Any]], folder: Path, name: str, how: str, seeds: range, capsys: Any) -> int:
    refused = 0
    for seed in seeds:
        what, chance = f"{name}, {how}, seed {seed}", random.Random(f"{name} {how} {seed}")
        root = folder / str(seed)
        shutil.copytree(stopped[0], root)
        run = root / "runs" / "run"
        is_changed, before = _spoil(run / name, how, chance), _contents(run)
        status = _run("train", root / "recipe.yaml", "--out", run, "--resume")
        said = capsys.readouterr().err
        assert status in (0, 2), f"{what}: exit code {status}: {said[:300]}"
        if status == 2:
            refused += 1
            assert _contents(run) == before, what
            assert len(said.splitlines()) == 1, f"{what}: {said[:300]}"
            assert str(run) in said, what
        else:
            weights = _weights(run)
            assert all(torch.equal(weights[key], value) for key, value in stopped[1].items()), what
            assert how == "gone" or not (is_changed and name == "checkpoint/last.pt"), f"{what}: was resumed from"
        shutil.rmtree(root)
    return refused


_RESUMED = ("records.jsonl", "environment.json", "recipe.yaml", "checkpoint/last.pt")


@pytest.mark.parametrize("how", _PLACES)
@pytest.mark.parametrize("name", _RESUMED)
def test_a_damaged_run_is_refused_or_comes_to_the_same_end(
    stopped: tuple[Path, dict[str, Any]], tmp_path: Path, name: str, how: str, capsys: Any
) -> None:
    if name == "checkpoint/last.pt" and how in ("lines", "value"):
        pytest.skip("it has no lines")
    _resume(stopped, tmp_path, name, how, _seeds(how, range(2)), capsys)


@pytest.mark.slow
@pytest.mark.parametrize("how", _BYTES)
@pytest.mark.parametrize("name", _RESUMED)
def test_a_damaged_run_is_refused_or_comes_to_the_same_end_whatever_the_damage(
    stopped: tuple[Path, dict[str, Any]], tmp_path: Path, name: str, how: str, capsys: Any
) -> None:
    if name == "checkpoint/last.pt" and how in ("lines", "value"):
        pytest.skip("it has no lines")
    seeds = range(2, 100 if name == "checkpoint/last.pt" else 22)
    refused = _resume(stopped, tmp_path, name, how, seeds, capsys)
    assert refused == len(seeds) or name != "checkpoint/last.pt"
