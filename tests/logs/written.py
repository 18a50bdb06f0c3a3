"""Logs as other programs write them, and what is read of them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from jorge_tune.logs.columns import ColumnPlan
from jorge_tune.logs.course import Course, CourseSettings
from jorge_tune.logs.formats import COUNTS_DONE, format_of, reader_of
from jorge_tune.logs.rows import LogReader
from jorge_tune.logs.tensorboard_log import TensorBoardLog
from jorge_tune.recipe.schema import LogFormat, MetricsSection
from jorge_tune.records import Record, RunDirectory, read_records
from jorge_tune.runs.run_journal import Moment, RunJournal

_HEADER = (
    "epoch",
    "time",
    "train/box_loss",
    "metrics/mAP50(B)",
    "metrics/mAP50-95(B)",
    "val/box_loss",
    "lr/pg0",
    "lr/pg1",
)
_EPOCHS = (
    (1, 24.7471, 1.02452, 0.4367, 0.32088, 0.97209, 0.0672973, 0.00033033),
    (2, 48.12, 0.981, 0.5012, 0.37115, 0.91002, 0.0345117, 0.00065443),
)
ULTRALYTICS = "".join(",".join(f"{cell:>23}" for cell in row) + "\n" for row in (_HEADER, *_EPOCHS))  # padded
LIGHTNING = """\
epoch,step,train_loss,val_acc,val_loss,test_acc
0,49,1.9,,,
0,62,,0.41,1.7,
1,99,1.4,,,
1,125,,0.55,1.3,
2,126,,,,0.52
"""
TIMM = """\
epoch,train_loss,eval_loss,eval_top1,eval_top5,lr
0,1.52667,0.6336,0.872,99.28,0.05
1,1.22092,0.5740,81.39,99.24,0.04522
2,1.15078,0.04
3,1.10355,0.4852,84.76,99.52,0.01727
"""
KERAS = "epoch,accuracy,loss,val_accuracy,val_loss\n0,0.5,1.2,0.6,1.1\n1,0.6,1.0,0.65,0.9\n"
MMENGINE = """\
{"lr": 0.02, "data_time": 0.2, "loss": 1.91, "time": 0.5, "epoch": 1, "iter": 50, "memory": 4000, "step": 50}
{"lr": 0.02, "data_time": 0.2, "loss": 1.52, "time": 0.5, "epoch": 1, "iter": 100, "memory": 4000, "step": 100}
{"coco/bbox_mAP": 0.21, "coco/bbox_mAP_50": 0.4, "step": 1}
{"lr": 0.02, "data_time": 0.2, "loss": 1.31, "time": 0.5, "epoch": 2, "iter": 150, "memory": 4000, "step": 150}
{"coco/bbox_mAP": 0.27, "coco/bbox_mAP_50": 0.45, "step": 2}
"""
MMENGINE_BY_ITERATION = """\
{"lr": 0.01, "data_time": 0.01, "loss": 2.1, "time": 0.3, "iter": 500, "memory": 9000, "step": 500}
{"lr": 0.01, "data_time": 0.01, "loss": 1.8, "time": 0.3, "iter": 1000, "memory": 9000, "step": 1000}
{"aAcc": 80.1, "mIoU": 41.5, "mAcc": 52.0, "step": 1000}
"""
HISTORY = [
    {"epoch": 0.5, "grad_norm": 1.05, "learning_rate": 4.8e-06, "loss": 1.387, "step": 50},
    {"epoch": 1.0, "grad_norm": 1.01, "learning_rate": 4.0e-06, "loss": 1.201, "step": 100},
    {
        "epoch": 1.0,
        "eval_accuracy": 0.61,
        "eval_loss": 1.1,
        "eval_runtime": 9.2,
        "eval_samples_per_second": 22.6,
        "step": 100,
    },
    {"epoch": 2.0, "grad_norm": 0.9, "learning_rate": 1.0e-06, "loss": 0.9, "step": 200},
    {
        "epoch": 2.0,
        "eval_accuracy": 0.7,
        "eval_loss": 0.8,
        "eval_runtime": 9.1,
        "eval_samples_per_second": 22.6,
        "step": 200,
    },
    {"epoch": 2.0, "step": 200, "total_flos": 1e15, "train_loss": 1.16, "train_runtime": 61.0},
]


def trainer_state(entries: list[dict]) -> str:
    """A trainer_state.json with so much of a history."""
    return json.dumps({"best_metric": None, "epoch": 2.0, "global_step": 200, "log_history": entries}, indent=2)


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def reader_for(path: Path, kind: LogFormat | None = None) -> LogReader:
    found, file = format_of(path)
    return TensorBoardLog(file) if found == "tensorboard" else reader_of(kind or found, lambda: path, str(path))


def records_from(
    folder: Path,
    reader: LogReader,
    section: MetricsSection | None = None,
    metric: str | None = None,
    *,
    kind: LogFormat | None = None,
    may_go_back: bool = False,
) -> list[Record]:
    """The records of a whole log, without the start and the end of a run."""
    section = section or MetricsSection()
    first = section.first_epoch or (1 if kind in COUNTS_DONE else None)
    plan = ColumnPlan(section, metric)
    folder.mkdir(exist_ok=True)
    with RunJournal(RunDirectory(folder)) as journal:

        def restart(at: Moment, is_kept: bool) -> None:
            journal.start(at, seed=0, resumed=is_kept, about="a log", facts={})

        settings = CourseSettings(metric, section.steps_per_epoch, first)
        course = Course(journal, settings, restart, may_go_back=may_go_back)
        restart(Moment(0, 0.0, 0.0), False)
        for row in reader.read(at_end=True):
            readings = plan.readings(row)
            if readings:
                course.take(readings, readings[0].seconds or 0.0)
            else:
                course.place(*plan.place_of(row))
        course.settle()
    return read_records(RunDirectory(folder).records)[1:]


def event_file(path: Path, scalars: list[tuple[float, int, str, float]]) -> None:
    """An event file as TensorBoard's own writers make it: framed protocol buffers with masked CRC-32C sums.

    Args:
        path: of the file.
        scalars: wall time, step, tag and value.
    """
    head = b"\x09" + struct.pack("<d", scalars[0][0]) + _field(3, b"brain.Event:2")
    events = [head]
    for wall, step, tag, value in scalars:
        summary_value = _field(1, tag.encode()) + b"\x15" + struct.pack("<f", value)
        events.append(b"\x09" + struct.pack("<d", wall) + b"\x10" + _varint(step) + _field(5, _field(1, summary_value)))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        for event in events:
            length = struct.pack("<Q", len(event))
            file.write(length + struct.pack("<I", _masked(length)) + event + struct.pack("<I", _masked(event)))


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def _masked(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
