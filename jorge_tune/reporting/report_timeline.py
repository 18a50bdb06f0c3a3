"""The timeline of a study's trials: who ran which when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from jorge_tune.reporting.escaped import in_figure
from jorge_tune.reporting.report_parts import Axis, Figure, Series
from jorge_tune.reporting.report_trials import LOOKS, Study, Trial, end_of, said

_MOST_LANES = 24  # workers that get a lane each
_UNITS = (("hours", 3600), ("minutes", 60), ("seconds", 1))


def timeline_figure(study: Study) -> Figure:
    """Who ran which trial when."""
    rows = [trial for trial in study["trials"] if trial["started"] is not None]
    if not rows:
        empty = "no trial has started"
        return Figure(key="timeline", title="Timeline of trials", x=Axis(), y=Axis(), empty=empty)
    times = {row["number"]: _times(row) for row in rows}
    start = min(begin for begin, _ in times.values())
    end = max(stop or begin for begin, stop in times.values())
    unit, size = next((u, s) for u, s in _UNITS if end - start >= 3 * s or s == 1)
    lanes = _lanes(rows, times, end)
    series = []
    for name, look in LOOKS.items():
        members = [row for row in rows if end_of(row) == name]
        if members:
            spans = [times[row["number"]] for row in members]
            series.append(
                Series(
                    name=name,
                    kind="spans",
                    look=look,
                    base=[(begin - start) / size for begin, _ in spans],
                    x=[((end if stop is None else stop) - begin) / size for begin, stop in spans],
                    y=[lanes[row["number"]] for row in members],
                    text=[said(row) for row in members],
                )
            )
    order = sorted(set(lanes.values()), key=lambda lane: min(times[n][0] for n, held in lanes.items() if held == lane))
    return Figure(
        key="timeline",
        title="Timeline of trials",
        x=Axis(title=f"{unit} since the first trial began"),
        y=Axis(names=True, ticks=[(float(index), lane) for index, lane in enumerate(order)]),
        series=series,
        caption="A trial that was lost and run again is shown from its last start.",
        height=min(170 + 26 * len(order), 800),
    )


def _times(trial: Trial) -> tuple[float, float | None]:
    begin = datetime.fromisoformat(trial["started"]).timestamp()
    return begin, None if trial["ended"] is None else datetime.fromisoformat(trial["ended"]).timestamp()


def _lanes(rows: Sequence[Trial], times: Mapping[int, tuple[float, float | None]], end: float) -> dict[int, str]:
    """A lane per worker; where there are too many, as few lanes as the trials need side by side."""
    workers = {row["number"]: in_figure(row["worker"] or "unknown worker") for row in rows}
    if len(set(workers.values())) <= _MOST_LANES:
        return workers
    free: list[float] = []
    lanes: dict[int, str] = {}
    for number in sorted(times, key=lambda number: times[number][0]):
        begin, stop = times[number]
        lane = next((index for index, until in enumerate(free) if until <= begin), len(free))
        free[lane : lane + 1] = [end if stop is None else stop]
        lanes[number] = f"lane {lane + 1}"
    return lanes
