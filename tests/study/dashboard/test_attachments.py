"""What is attached to a study for optuna-dashboard: small, once, and without a trial being touched."""

from __future__ import annotations

import json
import sqlite3
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jorge_tune.errors import InputError
from jorge_tune.study.claimed_trial import ClaimedTrial
from jorge_tune.study.dashboard import attachments as module
from jorge_tune.study.dashboard.attachments import (
    NOTE_BYTES,
    Artifact,
    ArtifactFolders,
    Attachments,
    merged,
    shortened_to,
)
from jorge_tune.study.dashboard.notes import trial_note
from jorge_tune.study.dashboard.trial_files import TrialFiles
from jorge_tune.study.space import FactorParameter, SearchSpace
from jorge_tune.study.study import add_point
from jorge_tune.study.trial_rows import TrialRow, read_rows
from jorge_tune.study.worker import Worker
from tests.small_disk import fill, small_disk
from tests.study.empty_runs import EmptyRuns
from tests.study.searched import Searched
from tests.study.small_studies import small_plan

LINE = "is kept.*"
TRIAL_TABLES = ("trials", "trial_values", "trial_params", "trial_user_attributes", "trial_system_attributes")


THREE = {"recipe.yaml", "records-seed-0.jsonl", "curves.svg"}


def attached(made: Searched) -> tuple[Attachments, TrialFiles]:
    """What is attached, as it stands, and who attaches what is missing."""
    runs = made.runs("small")
    attachments = Attachments(made.opened, runs / "artifacts")
    attachments.look()
    return attachments, TrialFiles(made.opened, runs)


def names(made: Searched, number: int = 0) -> list[str]:
    """The names of a trial's files, each as often as it is attached."""
    trial = made.opened.study.get_trials(deepcopy=False)[number]
    own = [text for key, text in trial.system_attrs.items() if key.startswith("artifacts:")]
    late = [text for key, text in study_attributes(made).items() if f":artifacts:{trial._trial_id}:" in key]
    return sorted(json.loads(text)["filename"] for text in [*own, *late])


@pytest.fixture
def made_earlier(monkeypatch):
    """Workers attach nothing, as those of earlier versions."""
    monkeypatch.setattr(TrialFiles, "attach", lambda *arguments, **options: [])


@pytest.fixture
def said(monkeypatch):
    """What workers say that is about no trial."""
    texts: list[str] = []
    init = Worker.__init__

    def heard(self, *arguments):
        init(self, *arguments[:6], lambda told: texts.append(told.what) if told.trial is None else None)

    monkeypatch.setattr(Worker, "__init__", heard)
    return texts


def study_attributes(made: Searched) -> dict[str, object]:
    return made.opened.storage.get_study_system_attrs(made.opened.study_id)


def trials_as_stored(made: Searched) -> list[tuple[object, ...]]:
    with sqlite3.connect(made.folder / "study.db") as connection:
        rows = [row for table in TRIAL_TABLES for row in connection.execute(f"SELECT * FROM {table}")]
    connection.close()
    return rows


@given(st.text(max_size=300), st.integers(14, 80))
def test_a_text_is_whole_or_its_beginning_is_small(text, most):
    short = shortened_to(text, most)
    assert short == text or (short.endswith("...") and text.startswith(short[:-3]))
    assert len(json.dumps(short if short == text else short[:-3])) <= most


@given(st.text(max_size=100), st.text(max_size=100))
def test_what_people_wrote_stays_below_the_line(ours, theirs):
    once = merged(ours, theirs)
    assert once.partition(LINE)[2].strip() == theirs.strip()
    assert merged(ours, once) == once
    assert merged("anew", once) == merged("anew", theirs)


def test_a_study_run_by_the_engine_keeps_every_trial_attribute_and_note_within_2_kilobytes(tmp_path, made_earlier):
    made = Searched(tmp_path, trials=3, seeds=(0, 1, 2))
    made.search(EmptyRuns())
    before = trials_as_stored(made)
    counts = attached(made)[1].attach_missing()
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


def test_attaching_again_changes_nothing(tmp_path, made_earlier):
    made = Searched(tmp_path, trials=2)
    made.search(EmptyRuns())
    attached(made)[1].attach_missing()
    first, files = study_attributes(made), sorted((tmp_path / "runs/small/artifacts").iterdir())
    times = [path.stat().st_mtime_ns for path in files]
    counts = attached(made)[1].attach_missing()
    assert (counts.trials, counts.files) == (0, 0)
    assert study_attributes(made) == first
    assert [path.stat().st_mtime_ns for path in files] == times


def test_trials_that_end_later_follow_and_those_that_run_are_let_alone(tmp_path, made_earlier):
    made = Searched(tmp_path, trials=4)
    made.search(EmptyRuns())
    files = attached(made)[1]
    assert files.attach_missing().trials == 4
    add_point(made.opened, {"lr_factor": 2.0, "refresh_interval": 10})
    made.open(trials=5)
    claim = made.opened.claims.claim("w-other", 5)
    before = trials_as_stored(made)
    assert files.attach_missing().trials == 0
    assert trials_as_stored(made) == before
    made.opened.claims.hand_back(claim)
    made.search(EmptyRuns())
    assert files.attach_missing().trials == 1


def test_records_are_linked_and_what_was_deleted_in_the_dashboard_stays_so(tmp_path, made_earlier):
    made = Searched(tmp_path, trials=1)
    made.search(EmptyRuns())
    attachments, files = attached(made)
    files.attach_missing()
    records = made.runs("small") / "trial-0/seed-0/records.jsonl"
    metas = {key: json.loads(value) for key, value in study_attributes(made).items() if ":artifacts:" in key}
    places = {meta["filename"]: attachments.directory / meta["artifact_id"] for meta in metas.values()}
    assert set(places) == {"recipe.yaml", "records-seed-0.jsonl", "curves.svg"}
    assert places["records-seed-0.jsonl"].samefile(records)
    key = next(key for key, meta in metas.items() if meta["filename"] == "curves.svg")
    made.opened.storage.set_study_system_attr(made.opened.study_id, key, "null")
    places["curves.svg"].unlink()
    assert attached(made)[1].attach_missing().files == 0
    assert not places["curves.svg"].exists()


def test_a_longer_note_and_plot_before_leave_nothing_behind(tmp_path):
    import plotly.graph_objects as go

    made = Searched(tmp_path)
    attachments, _ = attached(made)
    assert attachments.note("long " * 2000)
    assert attachments.plot("history", go.Figure(layout={"title": "x" * 130_000}))
    assert attachments.note("short")
    attachments.look()
    assert attachments.plot("history", go.Figure())
    attachments.look()
    assert not attachments.plot("history", go.Figure())
    held = study_attributes(made)
    note = "".join(str(held[f"dashboard:note_str:{n}"]) for n in range(sum(":note_str:" in key for key in held)))
    assert note == merged("short", "")
    assert held["dashboard:note_ver"] == 2
    count = sum(key.startswith("dashboard:plot_data:history:") for key in held)
    pieces = [held[f"dashboard:plot_data:history:{n}"] for n in range(count)]
    assert count > 60
    assert "".join(pieces) == go.Figure().to_json()


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path):
    made = Searched(tmp_path)
    (tmp_path / "file").write_text("")
    attachments = Attachments(made.opened, tmp_path / "file" / "artifacts")
    for content in ("text", tmp_path / "study.db"):
        with pytest.raises(InputError, match="cannot be written"):
            attachments.file(Artifact("one", content))


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


def test_where_no_file_can_be_written_notes_are_attached_all_the_same(tmp_path, made_earlier):
    made = Searched(tmp_path, trials=2)
    made.search(EmptyRuns())
    (made.runs("small") / "artifacts").write_text("in the way")
    counts = attached(made)[1].attach_missing()
    assert (counts.trials, counts.files) == (2, 0)
    (fault,) = counts.faults
    assert "cannot be written" in fault


def test_a_trial_with_damaged_records_has_all_but_curves(tmp_path, made_earlier):
    made = Searched(tmp_path, trials=1)
    made.search(EmptyRuns())
    (made.runs("small") / "trial-0/seed-0/records.jsonl").write_text("nothing\nreadable\n")
    counts = attached(made)[1].attach_missing()
    assert (counts.trials, counts.files) == (1, 2)
    (fault,) = counts.faults
    assert "trial 0 of study small has no curves" in fault


def test_a_worker_attaches_before_it_reports(tmp_path, monkeypatch):
    made = Searched(tmp_path, trials=2)
    seen, finish = [], ClaimedTrial._finish

    def watched(self, state, value):
        seen.append(names(made, self.claim.number))
        return finish(self, state, value)

    monkeypatch.setattr(ClaimedTrial, "_finish", watched)
    made.work(made.opened, EmptyRuns())
    assert [set(one) for one in seen] == [THREE, THREE]
    attachments, files = attached(made)
    assert attachments.has_note(made.opened.study.get_trials()[1]._trial_id)
    counts = files.attach_missing()
    assert (counts.trials, counts.files, counts.faults) == (0, 0, [])
    places = attachments.names_of(made.opened.study.get_trials()[0]._trial_id)
    records = made.runs("small") / "trial-0/seed-0/records.jsonl"
    assert (attachments.directory / places["records-seed-0.jsonl"]).samefile(records)
    assert [path for path in attachments.directory.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("before", ["report", "file"])
def test_a_worker_killed_before_its_report_attaches_again_and_nothing_twice(tmp_path, monkeypatch, before):
    class KilledError(BaseException):
        """Ends a worker at once, as SIGKILL does."""

    def killed(*arguments):
        raise KilledError

    made = Searched(tmp_path, trials=1)
    with monkeypatch.context() as patched:
        if before == "report":
            patched.setattr(ClaimedTrial, "_finish", killed)
        else:  # the name is stored, and its file is not there yet
            patched.setattr(ArtifactFolders, "write", killed)
        with pytest.raises(KilledError):
            made.work(made.opened, EmptyRuns())
    claims = made.opened.claims
    assert claims.take_back(claims.running()[0])
    made.work(made.opened, EmptyRuns())
    assert set(names(made)) == THREE
    assert len(names(made)) == 3
    attachments, files = attached(made)
    trial_id = made.opened.study.get_trials()[0]._trial_id
    assert all((attachments.directory / one).is_file() for one in attachments.names_of(trial_id).values())
    assert len(list(attachments.directory.iterdir())) == 3
    assert study_attributes(made)[f"dashboard:{trial_id}:note_ver"] == 1
    assert files.attach_missing().files == 0


def states(made: Searched) -> list[str]:
    return [row.state for row in read_rows(made.opened.study)]


@pytest.mark.parametrize(("fault", "words"), [("full", "No space left"), ("read-only", "Read-only file system")])
def test_a_disk_that_takes_nothing_costs_no_trial_and_is_said_once(tmp_path, said, fault, words):
    made = Searched(tmp_path, trials=3)
    made.opened.enter(made.runs("small"))
    with small_disk(made.runs("small") / "artifacts") as disk:
        if fault == "full":
            fill(disk, 0)
        else:
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        made.work(made.opened, EmptyRuns())
        assert not [path for path in disk.iterdir() if path.name != "filler"]
    assert states(made) == ["complete"] * 3
    assert names(made) == []
    (text,) = said
    assert f"artifacts: cannot be written ({words}" in text
    counts = attached(made)[1].attach_missing()  # once there is room again
    assert (counts.trials, counts.files) == (3, 9)


def test_a_directory_that_takes_no_files_costs_no_trial_and_notes_are_there(tmp_path, said):
    made = Searched(tmp_path, trials=2)
    made.opened.enter(made.runs("small"))
    (made.runs("small") / "artifacts").write_text("in the way")
    made.work(made.opened, EmptyRuns())
    assert states(made) == ["complete"] * 2
    assert len(said) == 1
    assert all(attached(made)[0].has_note(trial._trial_id) for trial in made.opened.study.get_trials())


def test_a_mistake_in_drawing_costs_no_trial(tmp_path, said, monkeypatch):
    def broken(*arguments):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("jorge_tune.study.dashboard.trial_files.curve_picture", broken)
    made = Searched(tmp_path, trials=2)
    made.work(made.opened, EmptyRuns())
    assert states(made) == ["complete"] * 2
    assert said == ["study small: not everything is attached to its trials (ZeroDivisionError: by zero)"]


def test_a_worker_without_the_package_attaches_files_and_says_so_once(tmp_path, said, monkeypatch):
    monkeypatch.setattr("jorge_tune.study.dashboard.trial_files.has_package", lambda: False)
    made = Searched(tmp_path, trials=2)
    made.work(made.opened, EmptyRuns())
    assert said == [module.NO_PACKAGE]
    assert set(names(made, 1)) == THREE
    assert not any("note" in key for key in study_attributes(made))
    monkeypatch.undo()
    assert attached(made)[1].attach_missing().trials == 2  # where the package is


def test_a_link_among_the_records_is_not_attached_and_the_rest_is(tmp_path, said, monkeypatch):
    made = Searched(tmp_path, trials=1)
    secret = tmp_path / "secret"
    attach = TrialFiles.attach

    def exchanged(self, *arguments, **options):
        records = made.runs("small") / "trial-0/seed-0/records.jsonl"
        records.rename(secret)
        records.symlink_to(secret)
        return attach(self, *arguments, **options)

    monkeypatch.setattr(TrialFiles, "attach", exchanged)
    made.work(made.opened, EmptyRuns())
    assert names(made) == ["recipe.yaml"]
    assert "must be a regular file, got a symbolic link" in said[0]
    assert states(made) == ["complete"]
