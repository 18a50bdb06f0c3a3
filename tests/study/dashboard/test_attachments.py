"""What is attached to a study for optuna-dashboard: small, once, and without a trial being touched."""

from __future__ import annotations

import json
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jorge_tune.compare.run_directories import Run
from jorge_tune.errors import InputError
from jorge_tune.study.dashboard.attachments import NOTE_BYTES, Artifact, ArtifactFolders, Attachments, merged, split
from jorge_tune.study.dashboard.notes import TrialFiles, trial_note
from jorge_tune.study.space import FactorParameter, SearchSpace
from jorge_tune.study.study import add_point
from jorge_tune.study.trial_rows import TrialRow, read_rows
from tests.study.empty_runs import EmptyRuns
from tests.study.searched import Searched
from tests.study.small_studies import small_plan

LINE = "is kept.*"
TRIAL_TABLES = ("trials", "trial_values", "trial_params", "trial_user_attributes", "trial_system_attributes")


def drawn(title: str, runs: list[Run], plan: object) -> str:
    return f"<svg>{title}</svg>"


def attached(made: Searched) -> tuple[Attachments, TrialFiles]:
    runs = made.runs("small")
    attachments = Attachments(made.opened.storage, made.opened.study_id, made.opened.name, runs / "artifacts")
    return attachments, TrialFiles(made.opened, attachments, runs, drawn)


def study_attributes(made: Searched) -> dict[str, object]:
    return made.opened.storage.get_study_system_attrs(made.opened.study_id)


def trials_as_stored(made: Searched) -> list[tuple[object, ...]]:
    with sqlite3.connect(made.folder / "study.db") as connection:
        rows = [row for table in TRIAL_TABLES for row in connection.execute(f"SELECT * FROM {table}")]
    connection.close()
    return rows


@given(st.text(max_size=300), st.integers(14, 80))
def test_pieces_are_small_and_make_the_whole(text, most):
    pieces = split(text, most)
    assert "".join(pieces) == text
    assert all(len(json.dumps(piece)) <= most for piece in pieces)


@given(st.text(max_size=100), st.text(max_size=100))
def test_what_people_wrote_stays_below_the_line(ours, theirs):
    once = merged(ours, theirs)
    assert once.partition(LINE)[2].strip() == theirs.strip()
    assert merged(ours, once) == once
    assert merged("anew", once) == merged("anew", theirs)


def test_a_study_run_by_the_engine_keeps_every_trial_attribute_and_note_within_2_kilobytes(tmp_path):
    made = Searched(tmp_path, trials=3, seeds=(0, 1, 2))
    made.search(EmptyRuns())
    before = trials_as_stored(made)
    counts = attached(made)[1].attach()
    assert (counts.trials, counts.files, counts.without_records, counts.faults) == (3, 15, [], [])
    assert trials_as_stored(made) == before
    with sqlite3.connect(tmp_path / "study.db") as connection:
        for table in ("trial_user_attributes", "trial_system_attributes"):
            sizes = [len(text) for (text,) in connection.execute(f"SELECT value_json FROM {table}")]
            assert sizes
            assert max(sizes) <= NOTE_BYTES
        notes = connection.execute("SELECT value_json FROM study_system_attributes WHERE key LIKE '%note_str%'")
        pieces = [len(text) for (text,) in notes]
    connection.close()
    assert len(pieces) == 3, "one piece each"
    assert max(pieces) <= NOTE_BYTES


def test_attaching_again_changes_nothing(tmp_path):
    made = Searched(tmp_path, trials=2)
    made.search(EmptyRuns())
    attached(made)[1].attach()
    first, files = study_attributes(made), sorted((tmp_path / "runs/small/artifacts").iterdir())
    times = [path.stat().st_mtime_ns for path in files]
    counts = attached(made)[1].attach()
    assert (counts.trials, counts.files) == (0, 0)
    assert study_attributes(made) == first
    assert [path.stat().st_mtime_ns for path in files] == times


def test_trials_that_end_later_follow_and_those_that_run_are_let_alone(tmp_path):
    made = Searched(tmp_path, trials=4)
    made.search(EmptyRuns())
    files = attached(made)[1]
    assert files.attach().trials == 4
    add_point(made.opened, {"lr_factor": 2.0, "refresh_interval": 10})
    made.open(trials=5)
    claim = made.opened.claims.claim("w-other", 5)
    before = trials_as_stored(made)
    assert files.attach().trials == 0
    assert trials_as_stored(made) == before
    made.opened.claims.hand_back(claim)
    made.search(EmptyRuns())
    assert files.attach().trials == 1
    assert files.ended == 5


def test_records_are_linked_and_what_was_deleted_in_the_dashboard_stays_so(tmp_path):
    made = Searched(tmp_path, trials=1)
    made.search(EmptyRuns())
    attachments, files = attached(made)
    files.attach()
    records = made.runs("small") / "trial-0/seed-0/records.jsonl"
    metas = {key: json.loads(value) for key, value in study_attributes(made).items() if ":artifacts:" in key}
    places = {meta["filename"]: attachments.folder / meta["artifact_id"] for meta in metas.values()}
    assert set(places) == {"recipe.yaml", "records-seed-0.jsonl", "curves.svg"}
    assert places["records-seed-0.jsonl"].samefile(records)
    key = next(key for key, meta in metas.items() if meta["filename"] == "curves.svg")
    made.opened.storage.set_study_system_attr(made.opened.study_id, key, "null")
    places["curves.svg"].unlink()
    assert attached(made)[1].attach().files == 0
    assert not places["curves.svg"].exists()


def test_a_longer_note_and_plot_before_leave_nothing_behind(tmp_path):
    made = Searched(tmp_path)
    attachments, _ = attached(made)
    assert attachments.note("long " * 2000)
    assert attachments.plot("history", "x" * 130_000)
    assert attachments.note("short")
    assert attachments.plot("history", "{}")
    assert not attachments.plot("history", "{}")
    held = study_attributes(made)
    note = "".join(str(held[f"dashboard:note_str:{n}"]) for n in range(sum(":note_str:" in key for key in held)))
    assert note == merged("short", "")
    assert held["dashboard:note_ver"] == 2
    assert [held[f"dashboard:plot_data:history:{n}"] for n in range(3)] == ["{}", "", ""]


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path):
    made = Searched(tmp_path)
    (tmp_path / "file").write_text("")
    attachments = Attachments(made.opened.storage, made.opened.study_id, "name", tmp_path / "file" / "artifacts")
    for content in ("text", tmp_path / "study.db"):
        with pytest.raises(InputError, match="cannot be written"):
            attachments.artifact(Artifact("one", content))


def test_artifacts_are_found_in_any_folder_and_new_ones_go_into_the_first(tmp_path):
    import io

    from optuna.artifacts.exceptions import ArtifactNotFound

    folders = ArtifactFolders([tmp_path / "a", tmp_path / "b"])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "11-22").write_text("old")
    folders.write("33-44", io.BytesIO(b"new"))
    with folders.open_reader("11-22") as old, folders.open_reader("33-44") as new:
        assert (old.read(), new.read()) == (b"old", b"new")
    assert (tmp_path / "a" / "33-44").exists()
    folders.remove("11-22")
    folders.remove("11-22")
    with pytest.raises(ArtifactNotFound, match="not on this machine"):
        folders.open_reader("11-22")


def test_a_note_says_what_differs_what_it_cost_and_what_went_wrong():
    plan = small_plan(overhead=0.1)
    attributes = {
        "values": {"0": 0.5, "1": "-inf"},
        "iteration_time": 1.2,
        "changes": ["seed 0 ran out of memory"],
        "reason": "a|b <c>\nd",
    }
    point = {"lr_factor": 2.0, "refresh_interval": 10}
    row = TrialRow(3, "complete", 0.5, point, {"iteration_time": 0.1}, attributes)
    note = trial_note(row, [row], plan, are_here=False)
    assert "| optimizer.lr | 0.1 | 0.2 |" in note
    assert "refresh_interval" not in note
    assert "does **not** keep the constraint of at most 1.1 (excess +0.100)" in note
    assert "seed 0 ran out of memory" in note
    assert r"a\|b \<c\> d" in note
    assert "By seed 0: 0.5, 1: no number." in note
    assert "not on this machine" in note
    assert ", the bootstrap" in trial_note(TrialRow(0, "failed", None, point), [row], plan, are_here=True)


def test_a_note_of_a_wide_space_and_a_long_reason_is_cut_to_one_attribute():
    recipe = small_plan().recipe
    names = [f"{'very_long_name_' * 4}{number}" for number in range(60)]
    parameters = [FactorParameter(name=n, path=f"optimizer.{n}", centre=0.1, low=0.1, high=9.0) for n in names]
    plan = small_plan(space=SearchSpace(recipe, tuple(parameters)))
    row = TrialRow(1, "failed", None, dict.fromkeys(names, 2.0), {}, {"reason": "ü" * 5000, "changes": ["ß" * 900] * 9})
    note = trial_note(row, [row], plan, are_here=True)
    assert len(json.dumps(merged(note, ""))) <= NOTE_BYTES
    assert "Failed" in note


def test_every_end_of_a_search_has_its_note(tmp_path):
    made = Searched(tmp_path, trials=1)
    made.search(EmptyRuns())
    rows = read_rows(made.opened.study)
    assert trial_note(rows[0], rows, made.opened.plan, are_here=True).startswith(
        "**Trial 0 of study small, the bootstrap**"
    )


def test_where_no_file_can_be_written_notes_are_attached_all_the_same(tmp_path):
    made = Searched(tmp_path, trials=2)
    made.search(EmptyRuns())
    (made.runs("small") / "artifacts").write_text("in the way")
    counts = attached(made)[1].attach()
    assert (counts.trials, counts.files) == (2, 0)
    (fault,) = counts.faults
    assert "cannot be written" in fault


def test_a_trial_with_damaged_records_has_all_but_curves(tmp_path):
    made = Searched(tmp_path, trials=1)
    made.search(EmptyRuns())
    (made.runs("small") / "trial-0/seed-0/records.jsonl").write_text("nothing\nreadable\n")
    counts = attached(made)[1].attach()
    assert (counts.trials, counts.files) == (1, 2)
    (fault,) = counts.faults
    assert "trial 0 of study small has no curves" in fault
