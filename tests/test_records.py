"""Records on a disk that is full, and records that nothing can be made of."""

import json

import pytest

from jorge_tune.compare.run_directories import read_run
from jorge_tune.errors import RunDirectoryError
from jorge_tune.records import LARGEST_FILE, LONGEST_LINE, RecordWriter, read_records
from tests.compare.race_folders import write_run
from tests.small_disk import fill, grow, small_disk


def test_half_a_record_on_a_full_disk_is_taken_back(tmp_path):
    record = {"kind": "step", "step": 1, "epoch": 1.0, "train_seconds": 1.0, "text": "x" * 3000}
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "records.jsonl"
        with RecordWriter(path) as writer:
            writer.write(record)
            fill(disk, left=0)
            with pytest.raises(OSError, match="No space left"):
                writer.write(record)  # its page has room for less than half
            grow(disk, "2m")
            writer.write({"kind": "step", "step": 2, "epoch": 2.0, "train_seconds": 2.0})
        assert [one["step"] for one in read_records(path)] == [1, 2]
        assert all(json.loads(line) for line in path.read_text().splitlines())


@pytest.mark.parametrize(
    ("found", "put", "told"),
    [
        ('"outcome":"finished",', "", "outcome is missing"),
        ('"outcome":"finished"', '"outcome":["x"]', "outcome must be one of finished, diverged, interrupted, failed"),
        ('"outcome":"finished"', '"outcome":"finished","outcome":"failed"', "the key 'outcome' is given twice"),
        ('"reason":""', r'"reason":"\ud800"', r"text must be valid Unicode, got '\\ud800'"),
        ('"reason":""', '"reason":' + "[" * 100_000 + "]" * 100_000, "must be nested at most 24 levels deep"),
        ('"reason":""', '"reason":' + "[" * 40 + "]" * 40, "must be nested at most 24 levels deep"),
        ('"reason":""', '"reason":null', "reason must be a text, got None"),
        ('"seed":0', '"seed":true', "seed must be an integer of 0 or more, got True"),
        ('"seed":0', '"seed":' + "9" * 400, "a number must fit 64 bits, got 999999999999... of 400 characters"),
        ('"train_seconds":4.0', '"train_seconds":-4.0', "train_seconds must be a finite number of 0 or more, got -4.0"),
        (
            '"train_seconds":4.0',
            '"train_seconds":"inf"',
            "train_seconds must be a finite number of 0 or more, got 'inf'",
        ),
        ('"train_seconds":4.0', '"train_seconds":1e999', "a number must fit 64 bits, got 1e999"),
        ('"train_seconds":4.0', '"train_seconds":NaN', "not valid JSON .the bare word NaN."),
        ('"epoch":2.0', '"epoch":1e9', "epoch must fit its 34 steps"),
        ('"epoch":2.0', '"epoch":1e-300', "epoch must fit its 34 steps"),
        ('"kind":"end"', '"kind":"ene"', "kind must be one of start, step, rate, evaluation, end, got 'ene'"),
        ('"kind":"end"', '"kind":["end"]', "kind must be one of"),
        ('"lr":[0.1]', '"lr":[]', r"lr must be a list of numbers, got \[\]"),
        ('"top1":0.6', '"top1":"high"', "metrics must be an object of numbers by name"),
        ('"part":"validation"', '"part":"a\\u001b[31m"', "part must be a name"),
        ('{"kind":"end"', "\0\0\0", "not valid JSON"),
        ('{"kind":"end"', "[1]\n", "must be an object with a kind, got .1."),
    ],
)
def test_damaged_records_are_named_with_their_line(tmp_path, found, put, told):
    folder = write_run(tmp_path / "run", [0.5, 0.6])
    records = folder / "records.jsonl"
    text = records.read_text()
    assert found in text
    records.write_text(text.replace(found, put))
    with pytest.raises(RunDirectoryError, match=told) as error:
        read_run(folder)
    line = text[: text.index(found)].count("\n") + 1
    assert str(error.value).startswith(f"{records}:{line}: not a record: ")
    assert len(str(error.value)) < len(str(records)) + 200


def test_what_is_no_utf8_and_what_has_no_end_are_named(tmp_path):
    records = write_run(tmp_path / "run", [0.5]) / "records.jsonl"
    whole = records.read_bytes()
    records.write_bytes(whole + b'{"kind":"\xff"}\n')
    with pytest.raises(RunDirectoryError, match=r"records.jsonl:5: not a record: not UTF-8 text \(byte 0xff"):
        read_records(records)
    records.write_bytes(whole + b" " * (LONGEST_LINE + 1))
    with pytest.raises(RunDirectoryError, match=r"records.jsonl:5: not a record: must have at most 1048576 bytes"):
        read_records(records)
    with records.open("r+b") as file:
        file.truncate(LARGEST_FILE + 1)  # a hole, which takes no room
    with pytest.raises(RunDirectoryError, match="must have at most 1073741824 bytes"):
        read_records(records)


def test_a_torn_line_longer_than_any_record_is_cut_off_before_the_next_one(tmp_path):
    records = write_run(tmp_path / "run", [0.5], outcome=None) / "records.jsonl"
    whole = records.read_bytes()
    records.write_bytes(whole + b"\0" * (2 * LONGEST_LINE + 1))
    with RecordWriter(records):
        pass
    assert records.read_bytes() == whole
    records.write_bytes(b"torn")
    with RecordWriter(records):
        pass
    assert records.read_bytes() == b""
