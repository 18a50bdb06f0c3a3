"""Records on a disk that is full, and records that nothing can be made of."""

import json

import pytest

from jorge_tune.errors import RunFolderError
from jorge_tune.measure.runs import read_run
from jorge_tune.records import RecordWriter, read_records
from tests.measure.race_folders import write_run
from tests.small_disk import fill, grow, small_disk


def test_half_a_record_on_a_full_disk_is_taken_back(tmp_path):
    record = {"kind": "step", "step": 1, "text": "x" * 3000}
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "records.jsonl"
        with RecordWriter(path) as writer:
            writer.write(record)
            fill(disk, left=0)
            with pytest.raises(OSError, match="No space left"):
                writer.write(record)  # its page has room for less than half
            grow(disk, "2m")
            writer.write({"kind": "step", "step": 2})
        assert [one["step"] for one in read_records(path)] == [1, 2]
        assert all(json.loads(line) for line in path.read_text().splitlines())


@pytest.mark.parametrize(
    ("found", "put", "told"),
    [
        ('"outcome":"finished"', '"reason":"finished"', "an end has an outcome: finished, diverged"),
        ('"outcome":"finished"', '"outcome":["x"]', "an end has an outcome: finished, diverged"),
        ('"seed":0', '"seed":true', "a seed that is no integer"),
        ('"train_seconds":4.0', '"train_seconds":-4.0', "seconds that are no amount"),
    ],
)
def test_damaged_records_are_named(tmp_path, found, put, told):
    folder = write_run(tmp_path / "run", [0.5, 0.6])
    records = folder / "records.jsonl"
    text = records.read_text()
    assert found in text
    records.write_text(text.replace(found, put))
    with pytest.raises(RunFolderError, match=told) as error:
        read_run(folder)
    assert "records.jsonl" in str(error.value)
