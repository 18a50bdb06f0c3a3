"""A study as its report reads it: fresh from the storage, which stays as it was, also where it cannot be written."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from jorge_tune.errors import InputError
from jorge_tune.study.confirm import RecordedValues, gather
from jorge_tune.study.report_data import recipes_of, run_places, study_data
from jorge_tune.study.storage.address import parse_address
from jorge_tune.study.storage.open import open_storage, reading
from jorge_tune.study.study import join_study, open_study
from jorge_tune.study.trial_rows import read_rows
from tests.study.empty_runs import EmptyRuns
from tests.study.searched import confirmed, search_anew, searched
from tests.study.small_studies import small_plan

READ = """\
import sys
from jorge_tune.study.storage.address import parse_address
from jorge_tune.study.storage.open import reading
from jorge_tune.study.study import join_study
with reading(parse_address(sys.argv[1])) as storage:
    print(len(join_study(storage, "small").study.trials))
"""


@pytest.fixture
def made(tmp_path):
    return confirmed(tmp_path / "study", confirm_seeds=(1, 2))


def test_the_data_are_the_trials_and_todays_verdict(made):
    data = study_data(made.opened, gather(made.opened), made.address)
    assert [trial["number"] for trial in data["trials"]] == [0, 1, 2, 3]
    assert data["verdict"]["best"]["number"] == 1
    assert data["verdict"]["sentences"]
    assert data["confirmation"]["bootstrap"].keys() == {1, 2}
    assert [parameter["kind"] for parameter in data["parameters"]] == ["factor", "choice"]
    assert data["parameters"][0]["low"] == pytest.approx(0.025)
    assert all(trial["worker"] for trial in data["trials"])
    assert "verdict" not in made.opened.study.user_attrs, "reading wrote nothing"


def test_the_recipes_come_with_their_reasons(made):
    found = {one.name: one for one in recipes_of(made.opened.plan, read_rows(made.opened.study))}
    assert list(found) == ["trial 1", "bootstrap", "baseline"]
    assert found["trial 1"].recipe.optimizer.lr == 0.2
    assert found["trial 1"].derivations[0].field == "optimizer.lr"


def test_a_folder_with_another_studys_runs_is_neither_shown_nor_judged_by(tmp_path, made):
    other = search_anew(tmp_path / "other", confirm_seeds=(1, 2))
    other.work(other.confirmation(), EmptyRuns(lambda lr, seed, evaluation: 0.123))
    rows = read_rows(made.opened.study)
    shown = run_places(made.opened, rows, other.runs)
    assert shown.places == []
    assert "holds no runs of study small.confirm" in shown.notes[0]
    recorded = RecordedValues(other.runs)
    assert gather(made.opened, recorded).confirmation == gather(made.opened).confirmation
    assert recorded.notes == []


def test_runs_that_a_trial_left_behind_in_another_folder_are_not_judged_by(tmp_path):
    made = searched(tmp_path / "study")
    (records,) = (made.runs("small") / "trial-0").rglob("records.jsonl")
    records.write_text(re.sub(r'"top1":[0-9.]+', '"top1":0.99', records.read_text()))
    here = RecordedValues(made.runs)
    assert gather(made.opened, here).rows[0].value == 0.99
    assert here.notes == [
        "Trial 0 of small: its records say 0.99, but the study holds 0.1; this report goes by the records."
    ]
    moved = [replace(row, folder="another") if row.number == 0 else row for row in read_rows(made.opened.study)]
    left = RecordedValues(made.runs)
    assert left.chosen_of(made.opened, moved)[0].value == made.opened.study.get_trials()[0].value
    assert left.notes == []


def test_the_curves_are_the_confirmations_and_else_the_searchs(tmp_path, made):
    places, whose, *_ = run_places(made.opened, read_rows(made.opened.study), made.runs)
    assert "did not see" in whose
    assert {place.name: len(place.folders) for place in places} == {"baseline": 2, "bootstrap": 2, "trial 1": 2}
    assert all((folder / "records.jsonl").is_file() for place in places for folder in place.folders)
    alone = searched(tmp_path / "alone")
    places, whose, *_ = run_places(alone.opened, read_rows(alone.opened.study), alone.runs)
    assert "search's runs" in whose
    assert [place.folders for place in places if place.name == "bootstrap"] == [
        (alone.runs("small") / "trial-0" / "seed-0",)
    ]


@pytest.mark.parametrize("name", ["study.db", "study.journal"])
def test_a_storage_that_cannot_be_written_is_read(tmp_path, name):
    folder = tmp_path / "locked"
    folder.mkdir()
    with contextlib.closing(open_storage(parse_address(str(folder / name)))) as storage:
        open_study(storage, small_plan(), lambda study: tmp_path / "runs" / study)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}  # not closed yet: some may be in the log
        for path in folder.iterdir():
            path.chmod(0o444)
        folder.chmod(0o555)
        try:
            answer = _without_powers([sys.executable, "-c", READ, str(folder / name)])
            after = {path.name: path.read_bytes() for path in folder.iterdir()}
        finally:
            for path in (folder, *folder.iterdir()):
                path.chmod(0o755)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == "1"
    assert after.keys() == before.keys()
    assert {n: held for n, held in after.items() if not n.endswith("-shm")} == {
        n: held for n, held in before.items() if not n.endswith("-shm")
    }


def test_a_storage_that_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match="there are no studies"), reading(parse_address(f"{tmp_path}/none.db")):
        pass


def test_a_writable_storage_is_read_where_it_lies(made):
    with reading(made.address) as storage:
        assert len(join_study(storage, "small").study.trials) == 4


def _without_powers(command):
    """Root may write everything unless it gives up its capabilities."""
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may write everything, and there is no setpriv to give that up")
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_data_survive_json(made):
    from jorge_tune.records import portable

    data = study_data(made.opened, gather(made.opened), made.address)
    assert json.loads(json.dumps(portable(data), allow_nan=False))["trials"][0]["number"] == 0
