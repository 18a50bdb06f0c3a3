"""How long a run takes to start through the fork server, and what memory the processes hold.

first       from nothing: the server is started, loads torch, and the run begins to train
later       the same with the server there: until the run's process answers, and until it trains
memory      the server's resident memory (its own part before it has forked anything), and what a run that has trained
            holds besides what it shares

    python benchmarks/run_start.py --runs 20
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from jorge_tune.recipe.recipe_files import parse_recipe, resolve_recipe
from jorge_tune.records import RunDirectory
from jorge_tune.study.jobs.client import Child, RunJob, RunLauncher

_KIB = 1024.0  # in a MiB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    recipe = resolve_recipe("digits/cnn-sgd").read_text()
    firsts: list[tuple[float, float]] = []
    laters: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(3):
            with RunLauncher() as server:
                firsts.append(timed_start(server, recipe, Path(folder) / f"first-{number}"))
        with RunLauncher() as server:
            loaded = memory_of_the_loaded(server, recipe, Path(folder) / "loaded")
            for number in range(runs):
                laters.append(timed_start(server, recipe, Path(folder) / f"later-{number}"))
            trained = memory_of_a_run(server, recipe, Path(folder) / "memory")
        data = seconds_to_read_data(recipe)
        show("first run: process answers", [1000 * first for first, _ in firsts])
        show("first run: training begins", [1000 * second for _, second in firsts])
        show("later run: process answers", [1000 * first for first, _ in laters])
        show("later run: training begins", [1000 * second for _, second in laters])
        show("reading the data, at least", [1000 * seconds for seconds in data])
    for name, (whole, own) in (("server", loaded), ("a run", trained)):
        print(f"{name + ', resident':28s} {whole:.0f} MiB, {own:.0f} its own")


def timed_start(server: RunLauncher, recipe: str, out: Path) -> tuple[float, float]:
    """Seconds until the run's process answers and until its first record, which is written where training begins."""
    started = time.perf_counter()
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


def memory_of_the_loaded(server: RunLauncher, recipe: str, out: Path) -> tuple[float, float]:
    """MiB of a server that has forked one run, which is gone."""
    with server.start(RunJob(recipe, str(out), "cpu", 1)) as child:
        finish(child)
    assert server.server_pid is not None
    return resident(server.server_pid, "Rss"), resident(server.server_pid, "Private")


def memory_of_a_run(server: RunLauncher, recipe: str, out: Path) -> tuple[float, float]:
    """MiB of a run that trains."""
    with server.start(RunJob(recipe, str(out), "cpu", 1)) as child:
        while child.evaluations < 2:
            child.poll(1.0)
        sizes = resident(child.pid, "Rss"), resident(child.pid, "Private")
        finish(child)
    return sizes


def resident(pid: int, kind: str) -> float:
    """MiB, from smaps_rollup."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(kind)) / _KIB


if __name__ == "__main__":
    main()
