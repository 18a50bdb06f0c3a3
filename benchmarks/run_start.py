"""How long a run takes to start through the run server, and what memory the processes hold.

first       from nothing: the server is started, loads torch, and the run begins to train
later       the same with the server there: until the run's process answers, and until it trains
memory      the server's resident memory, and what a run that has trained holds besides what it shares

    python benchmarks/run_start.py --runs 20
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path

from jorge_tune.recipe.recipe_files import parse_recipe, resolve_recipe
from jorge_tune.records import RunDirectory
from jorge_tune.study.jobs.client import Child, RunJob, RunLauncher, find_place, knock, server_of

_SERVER = {"idle_seconds": 10.0, "grace_seconds": 9.0}  # one of the benchmark's own
_MIB = 1024.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    recipe = resolve_recipe("digits/cnn-sgd").read_text()
    firsts: list[tuple[float, float]] = []
    laters: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(3):
            end_server()
            firsts.append(timed_start(None, recipe, Path(folder) / f"first-{number}"))
        server = RunLauncher.connect(**_SERVER)
        for number in range(runs):
            laters.append(timed_start(server, recipe, Path(folder) / f"later-{number}"))
        data = seconds_to_read_data(recipe)
        show("first run: process answers", [1000 * first for first, _ in firsts])
        show("first run: training begins", [1000 * second for _, second in firsts])
        show("later run: process answers", [1000 * first for first, _ in laters])
        show("later run: training begins", [1000 * second for _, second in laters])
        show("reading the data, at least", [1000 * seconds for seconds in data])
        show_memory(recipe, Path(folder) / "memory")
    end_server()


def timed_start(server: RunLauncher | None, recipe: str, out: Path) -> tuple[float, float]:
    """Seconds until the run's process answers and until its first record, which is written where training begins."""
    started = time.perf_counter()
    server = server or RunLauncher.connect(**_SERVER)
    with server.start(RunJob(recipe, str(out), "cpu", 1)) as child:
        answered = time.perf_counter() - started
        records = RunDirectory(out).records
        while not records.exists() or not records.stat().st_size:
            assert child.poll(0.0005) is None
        trained = time.perf_counter() - started
        finish(child)
    return answered, trained


def finish(child: Child) -> None:
    child.kill()
    while child.poll(1.0) is None:
        pass


def seconds_to_read_data(recipe: str) -> list[float]:
    """What opening the task takes in a process that has done it before."""
    import torch

    from jorge_tune.training.tasks import open_task

    torch.set_num_threads(1)
    taken = []
    for _ in range(6):
        started = time.perf_counter()
        open_task(parse_recipe(recipe, "recipe").recipe, torch.device("cpu"), download=False).close()
        taken.append(time.perf_counter() - started)
    return taken[1:]


def show(name: str, values: list[float]) -> None:
    print(f"{name:28s} median {statistics.median(values):7.1f} ms   {min(values):.1f} - {max(values):.1f}")


def show_memory(recipe: str, out: Path) -> None:
    server = RunLauncher.connect(**_SERVER)
    pid = server_pid()
    print(
        f"{'server, resident':28s} {resident(pid, 'Rss') / _MIB:.0f} MiB, {resident(pid, 'Private') / _MIB:.0f} its own"
    )
    with server.start(RunJob(recipe, str(out), "cpu", 1)) as child:
        while child.evaluations < 2:
            child.poll(1.0)
        own = resident(child.pid, "Private") / _MIB
        print(f"{'a run, resident':28s} {resident(child.pid, 'Rss') / _MIB:.0f} MiB, {own:.0f} its own")
        finish(child)


def resident(pid: int, kind: str) -> int:
    """KiB, from smaps_rollup."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(kind))


def server_pid() -> int:
    connection = knock(find_place(**_SERVER))
    assert connection is not None
    with connection:
        return server_of(connection)


def end_server() -> None:
    """So that the next run is a first one."""
    if (connection := knock(find_place(**_SERVER))) is not None:
        connection.close()
        pid = server_pid()
        os.kill(pid, signal.SIGTERM)
        while Path(f"/proc/{pid}/exe").exists():
            time.sleep(0.01)


if __name__ == "__main__":
    main()
