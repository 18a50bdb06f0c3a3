"""Checkpoints that are not what was written, or not what a run writes: one message, which names the way on."""

from __future__ import annotations

import hashlib
import io
import os
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jorge_tune.errors import RunDirectoryError
from jorge_tune.recipe.schema import AdamWSection, JorgeSection, Recipe
from jorge_tune.records import RunDirectory, read_records
from jorge_tune.training import train
from jorge_tune.training.checkpoint import load_checkpoint
from tests.training.small_recipes import digits_recipe

_END_BYTES, _COMMENT_BYTES = 22, 82


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, RunDirectory]:
    """A run stopped after its second checkpoint."""
    recipe = digits_recipe()
    folder = train(recipe, tmp_path_factory.mktemp("stopped") / "run", max_steps=9).folder
    train(recipe, folder.root, resume=True, max_steps=14)
    return recipe, folder


@pytest.fixture
def run(stopped: tuple[Recipe, RunDirectory], tmp_path: Path) -> tuple[Recipe, RunDirectory]:
    """A copy of it, to be spoilt."""
    shutil.copytree(stopped[1].root, tmp_path / "run")
    return stopped[0], RunDirectory(tmp_path / "run")


@contextmanager
def unchanged(folder: RunDirectory) -> Iterator[None]:
    """What is done leaves the directory's files as they were."""
    before = {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file()}
    yield
    assert {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file()} == before


def rewritten(path: Path, change: Callable[[dict[str, Any]], object], *, checksum: bool = True) -> None:
    """The file with other content, and (with `checksum`) a checksum that is right."""
    content = torch.load(path, weights_only=True)
    put = change(content)
    _write(path, content if put is None else put, checksum=checksum)


def _write(path: Path, content: object, *, checksum: bool = True) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    zipped = buffer.getvalue()
    comment = b"jorge-tune sha256:" + hashlib.sha256(zipped).hexdigest().encode()
    path.write_bytes(zipped[:-2] + len(comment).to_bytes(2, "little") + comment if checksum else zipped)


def test_a_checkpoint_is_a_zip_as_torch_writes_it_with_its_checksum_as_comment(
    stopped: tuple[Recipe, RunDirectory],
) -> None:
    last, previous = (stopped[1].checkpoint / name for name in ("last.pt", "previous.pt"))
    assert torch.load(last, weights_only=True)["position"]["step"] == 14
    assert torch.load(previous, weights_only=True)["position"]["step"] == 9
    with zipfile.ZipFile(last) as zipped:
        assert zipped.testzip() is None
        comment = zipped.comment
    content = last.read_bytes()[: -len(comment)]
    assert comment == b"jorge-tune sha256:" + hashlib.sha256(content[:-2] + b"\0\0").hexdigest().encode()
    assert sorted(path.name for path in last.parent.iterdir()) == ["last.pt", "previous.pt"]


def test_no_flipped_bit_anywhere_is_loaded(run: tuple[Recipe, RunDirectory]) -> None:
    path = run[1].checkpoint / "last.pt"
    whole, generator = path.read_bytes(), random.Random(0)
    ends = range(len(whole) - _END_BYTES - _COMMENT_BYTES, len(whole))
    places = [*generator.sample(range(len(whole)), 500), *ends]
    for place in places:
        spoilt = bytearray(whole)
        spoilt[place] ^= 1 << generator.randrange(8)
        path.write_bytes(spoilt)
        with pytest.raises(RunDirectoryError, match=r"last\.pt: damaged: "):
            load_checkpoint(run[1].checkpoint)
    assert len(places) == 500 + 104


def test_a_checkpoint_of_an_earlier_version_is_loaded_and_said_to_be_and_its_damage_is_found(
    run: tuple[Recipe, RunDirectory],
) -> None:
    recipe, folder = run
    path = folder.checkpoint / "last.pt"
    rewritten(path, lambda content: content.update(format=1), checksum=False)
    whole, generator, expected = path.read_bytes(), random.Random(0), load_checkpoint(folder.checkpoint)
    assert expected is not None
    assert expected.note == "last.pt is of an earlier version, without a checksum; its data are intact"
    refused = 0
    for place in generator.sample(range(len(whole)), 300):
        spoilt = bytearray(whole)
        spoilt[place] ^= 1 << generator.randrange(8)
        path.write_bytes(spoilt)
        try:
            found = load_checkpoint(folder.checkpoint)
        except RunDirectoryError:
            refused += 1
            continue
        assert found is not None  # what the zip's check sums do not cover is of no effect
        assert (found.position, found.train_seconds) == (expected.position, expected.train_seconds)
        assert all(torch.equal(found.model[name], value) for name, value in expected.model.items())
        assert str(found.optimizer) == str(expected.optimizer)
    assert refused > 150

    path.write_bytes(whole)
    assert train(recipe, folder.root, resume=True).outcome == "finished"
    assert "last.pt is of an earlier version" in folder.log.read_text()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-_COMMENT_BYTES])


def _zero_a_page(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4096] + bytes(4096) + content[8192:])


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: path.write_bytes(b""), "damaged: it is empty"),
        (lambda path: path.write_bytes(b"PK"), "damaged: its end is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:500]), "damaged: its end is missing"),
        (_cut, "damaged: its end is missing"),
        (_zero_a_page, "damaged: its SHA-256 is not the one it was written with"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "damaged: its end is missing"),
        (lambda path: rewritten(path, lambda content: None, checksum=False), "not a checkpoint of this version"),
        (lambda path: _write(path, {"format": 99}), "not a checkpoint of this version"),
        (lambda path: _write(path, [1]), "not a checkpoint of this version"),
        (lambda path: _write(path, Path), "not a checkpoint .UnpicklingError while it was read."),
    ],
)
def test_a_damaged_checkpoint_names_the_whole_one_before_it_from_which_the_run_goes_on(
    run: tuple[Recipe, RunDirectory], spoil: Callable[[Path], object], told: str
) -> None:
    recipe, folder = run
    path = folder.checkpoint / "last.pt"
    spoil(path)
    way_on = r"; previous\.pt next to it is whole: remove last\.pt, and --resume continues from there, step 9$"
    with unchanged(folder), pytest.raises(RunDirectoryError, match=rf"last\.pt: {told}.*{way_on}") as caught:
        train(recipe, folder.root, resume=True)
    assert "\n" not in str(caught.value)

    path.unlink()
    assert train(recipe, folder.root, resume=True).outcome == "finished"
    assert "last.pt is missing, so the run resumes from previous.pt, at step 9" in folder.log.read_text()
    starts = [record["step"] for record in read_records(folder.records) if record["kind"] == "start"]
    assert starts == [0, 9, 9]


def test_where_no_checkpoint_is_whole_the_run_can_be_trained_anew(run: tuple[Recipe, RunDirectory]) -> None:
    recipe, folder = run
    for name in ("last.pt", "previous.pt"):
        _zero_a_page(folder.checkpoint / name)
    anew = f"remove {folder.checkpoint}, and --resume starts the run again"
    with pytest.raises(RunDirectoryError, match=f"previous.pt next to it is damaged too: {anew}"):
        train(recipe, folder.root, resume=True)
    (folder.checkpoint / "last.pt").unlink()
    with pytest.raises(RunDirectoryError, match=rf"previous\.pt: damaged: .*; {anew}"):
        train(recipe, folder.root, resume=True)
    (folder.checkpoint / "previous.pt").rename(folder.checkpoint / "last.pt")
    with pytest.raises(RunDirectoryError, match=f"there is no other checkpoint: {anew}"):
        train(recipe, folder.root, resume=True)
    shutil.rmtree(folder.checkpoint)
    assert train(recipe, folder.root, resume=True).outcome == "finished"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c.pop("optimizer"), "not a complete checkpoint: optimizer is missing"),
        (lambda c: c.update(extra=1), "not a complete checkpoint: 'extra' is unknown"),
        (lambda c: c.update(model=[1]), "model must be a state dict, got list"),
        (lambda c: c.update(train_seconds=-1.0), "train_seconds must be a finite number of 0 or more, got -1.0"),
        (lambda c: c.update(train_seconds=10**400), "train_seconds must be a finite number of 0 or more, got 1000"),
        (lambda c: c.update(format=torch.zeros(3)), "not a checkpoint of this version"),
        (lambda c: c.update(train_seconds=True), "train_seconds must be a finite number of 0 or more, got True"),
        (lambda c: c["position"].update(step="14"), "position must be a position in the training, got dict"),
        (lambda c: c.update(best={"metric": "top1"}), "best must be the best reading, or none, got dict"),
        (lambda c: c.update(cpu_rng=torch.zeros(3)), "cpu_rng must be a generator's state, got Tensor"),
        (lambda c: c.update(cpu_rng=torch.zeros(3, dtype=torch.uint8)), "not a checkpoint of this run"),
        (lambda c: c["position"].update(step=15), "its step 15 is step 5 of epoch 1, but an epoch has 9 here"),
        (lambda c: c["position"].update(step=900, epoch=100, step_in_epoch=0), "beyond the last one, 18"),
        (lambda c: c["optimizer"].update(state={}), "its optimizer has no state after 14 steps"),
        (lambda c: c["optimizer"].pop("state"), "not a checkpoint of this run"),
        (lambda c: c["optimizer"].pop("param_groups"), "not a checkpoint of this run"),
        (lambda c: c["optimizer"]["state"][0].update(momentum_buffer=torch.zeros(2)), "momentum_buffer is not of its"),
        (lambda c: c["optimizer"]["state"][0].update(momentum_buffer="x"), "momentum_buffer is not of its"),
        (lambda c: c["model"].popitem(), "not a checkpoint of this run"),
        (lambda c: c["model"].update({"1.bias": torch.zeros(3)}), "not a checkpoint of this run"),
        (lambda c: c.update(scheduler={}), "its scheduler has nothing"),
        (lambda c: c["scheduler"].update(last_epoch="1"), "its scheduler's last_epoch is '1'"),
        (lambda c: c["scheduler"].update(last_epoch=99), "its scheduler is at step 99"),
        (lambda c: c["scheduler"].update(base_lrs=[0.1, 0.1]), "its scheduler's base_lrs is"),
        (lambda c: c.update(scaler={"scale": 1.0}), "its scaler has scale"),
    ],
)
def test_a_checkpoint_of_wrong_form_is_one_message_and_changes_nothing(
    run: tuple[Recipe, RunDirectory], change: Callable[[dict[str, Any]], object], told: str
) -> None:
    recipe, folder = run
    rewritten(folder.checkpoint / "last.pt", lambda content: (change(content), None)[1])
    with unchanged(folder), pytest.raises(RunDirectoryError, match=told) as caught:
        train(recipe, folder.root, resume=True)
    assert "last.pt: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("optimizer", [AdamWSection(lr=1e-3), JorgeSection(lr=0.1)], ids=["adamw", "jorge"])
def test_another_recipes_checkpoint_is_refused(
    run: tuple[Recipe, RunDirectory], tmp_path: Path, optimizer: Any
) -> None:
    recipe, folder = run
    other = train(replace(recipe, optimizer=optimizer), tmp_path / "other", max_steps=9).folder
    shutil.copy(other.checkpoint / "last.pt", folder.checkpoint / "last.pt")
    with unchanged(folder), pytest.raises(RunDirectoryError, match=r"last\.pt: not a checkpoint of this run"):
        train(recipe, folder.root, resume=True)


def test_the_checkpoint_is_read_by_whoever_has_the_folder(run: tuple[Recipe, RunDirectory]) -> None:
    recipe, folder = run
    fcntl = pytest.importorskip("fcntl", reason="file locks of this kind are POSIX")
    (folder.checkpoint / "last.pt").write_bytes(b"half of what the other process is writing")
    with folder.log.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunDirectoryError, match="another process is training in it"):
            train(recipe, folder.root, resume=True)


def _as_link(path: Path) -> None:
    path.rename(path.with_name(f"{path.name}-elsewhere"))
    path.symlink_to(path.with_name(f"{path.name}-elsewhere"))


def _as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("name", ["recipe.yaml", "records.jsonl", "log.txt", "checkpoint/last.pt", "checkpoint"])
@pytest.mark.parametrize("spoil", [_as_link, _as_pipe])
def test_a_run_is_not_resumed_from_what_is_no_file(
    run: tuple[Recipe, RunDirectory], name: str, spoil: Callable[[Path], object]
) -> None:
    recipe, folder = run
    if name == "checkpoint" and spoil is _as_pipe:
        shutil.rmtree(folder.checkpoint)
        folder.checkpoint.write_text("")
        told = "cannot be opened"
    else:
        spoil(folder.root / name)
        told = "must be a regular file, got a (symbolic link|named pipe)"
    with pytest.raises(RunDirectoryError, match=told) as caught:
        train(recipe, folder.root, resume=True)
    assert str(folder.root / name) in str(caught.value)


def test_a_run_folder_may_itself_be_a_link(run: tuple[Recipe, RunDirectory], tmp_path: Path) -> None:
    recipe, folder = run
    (tmp_path / "link").symlink_to(folder.root)
    assert train(recipe, tmp_path / "link", resume=True).outcome == "finished"


def test_what_a_run_killed_at_its_very_beginning_leaves_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.txt").touch()
    (tmp_path / "run" / ".recipe.yaml.4711.partial").write_text("version")
    assert train(digits_recipe(), tmp_path / "run").outcome == "finished"


def test_a_link_in_the_place_of_a_checkpoint_that_is_being_written_is_not_followed(tmp_path: Path) -> None:
    recipe = digits_recipe()
    folder = train(recipe, tmp_path / "run", max_steps=5).folder
    (tmp_path / "precious").write_text("years of work")
    (folder.checkpoint / ".last.pt.partial").symlink_to(tmp_path / "precious")
    train(recipe, folder.root, resume=True)
    assert (tmp_path / "precious").read_text() == "years of work"


def test_a_kill_at_any_file_operation_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.killed_saves", tmp_path], capture_output=True, text=True, check=True
    )
    *killed, last = [line.split() for line in done.stdout.splitlines()]
    assert [event for event, *_ in killed].count("os.rename") == 2
    assert len(killed) >= 6
    assert {tuple(left) for _, *left in killed} == {("killed", "2", "2.0"), ("killed", "3", "3.0")}
    assert last == ["none", "3", "3.0"]
