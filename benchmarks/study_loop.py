"""What the whole worker loop costs around runs that train nothing, against bare Optuna with the same work.

    python benchmarks/study_loop.py --workers 1 --trials 60
    python benchmarks/study_loop.py --workers 8 --storage postgresql://postgres@127.0.0.1/test

A trial has 5 parameters, 5 reports and 3 attributes. The loop claims it, draws its point, makes its recipe, starts an
empty run (whose folder gets recipe and records), follows the records, tells. Bare Optuna asks, reports, sets
attributes, tells. Contenders take turns. `study_engine.py` has the claims alone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import optuna
from study_engine import ATTRIBUTES, REPORTS, plain_storage

from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.recipe.io import parse_recipe, read_recipe, render_recipe
from jorge_tune.recipe.shipped import resolve_recipe
from jorge_tune.records import RecordWriter, RunFolder
from jorge_tune.tuning.address import Address, find_address
from jorge_tune.tuning.children import Ended, RunJob
from jorge_tune.tuning.constraint import IterationTimes
from jorge_tune.tuning.objective import Objective
from jorge_tune.tuning.orders import Orders
from jorge_tune.tuning.parameters import ChoiceParameter, FactorParameter
from jorge_tune.tuning.plan import StudyPlan
from jorge_tune.tuning.space import Space
from jorge_tune.tuning.storage import open_storage, silence_optuna
from jorge_tune.tuning.study import join_study, open_study
from jorge_tune.tuning.worker import Worker, WorkerSettings


def plan_of(name: str, trials: int, sampler: str) -> StudyPlan:
    """Five parameters around the digits' recipe."""
    recipe = bootstrap(read_recipe(resolve_recipe("digits/cnn-sgd"))).recipe
    optimizer: Any = recipe.optimizer
    factors = {"lr": optimizer.lr, "weight_decay": optimizer.weight_decay}
    choices = {"refresh_interval": (5, 10, 20), "warm_refreshes": (0, 50, 100), "block_size": (256, 512, 1024)}
    parameters = [
        *(FactorParameter(name=n, path=f"optimizer.{n}", centre=v, low=0.25, high=4.0) for n, v in factors.items()),
        *(
            ChoiceParameter(name=n, path=f"optimizer.{n}", labels=v, values=v, bootstrap=v[1 if n[0] == "r" else 2])
            for n, v in choices.items()
        ),
    ]
    return StudyPlan(
        name=name,
        recipe=recipe,
        baseline=None,
        space=Space(recipe, tuple(parameters)),
        objective=Objective(kind="best", metric="top1"),
        sampler=sampler,  # type: ignore[arg-type]
        trials=trials,
        overhead=None,
    )


class EmptyRuns:
    """Starts runs that are over at once: a recipe and the records of five evaluations."""

    def start(self, job: RunJob) -> EmptyChild:
        folder = RunFolder(Path(job.out))
        folder.root.mkdir(parents=True)
        folder.recipe.write_text(render_recipe(parse_recipe(job.recipe_text, "job").recipe))
        at = {"step": 0, "epoch": 0.0, "train_seconds": 0.0}
        with RecordWriter(folder.records) as records:
            records.write({"kind": "start", **at, "world_size": 1, "seed": 0, "resumed": False})
            for number in range(1, REPORTS + 1):
                at = {"step": number, "epoch": float(number), "train_seconds": float(number)}
                metrics = {"top1": 0.1 * number, "loss": 1.0}
                records.write({"kind": "evaluation", **at, "part": "validation", "metrics": metrics})
            records.write({"kind": "end", **at, "outcome": "finished", "reason": ""})
        return EmptyChild()


class EmptyChild:
    """A run that is over."""

    def fileno(self) -> int:
        return -1

    def poll(self, timeout: float | None = 0.0) -> Ended | None:
        return Ended("finished", "")

    def stop(self, reason: str) -> None: ...

    def kill(self) -> None: ...

    def close(self) -> None: ...


def loop(address: Address, name: str, runs: Path, quota: int, ready: Any) -> float:
    opened = join_study(open_storage(address), name)
    folder, orders = opened.enter(runs), Orders()
    costs = IterationTimes(opened, device="cpu", threads=1)
    worker = Worker(opened, folder, EmptyRuns(), orders, WorkerSettings(device="cpu", threads=1), costs)
    ready.wait()
    worker.work()
    return time.monotonic()


def bare(address: Address, name: str, runs: Path, quota: int, ready: Any) -> float:
    plan = plan_of(name, quota, "random")
    sampler = optuna.samplers.RandomSampler()
    study = optuna.load_study(study_name=name, storage=plain_storage(address), sampler=sampler)
    ready.wait()
    for _ in range(quota):
        trial = study.ask(plan.space.distributions())
        for number in range(1, REPORTS + 1):
            trial.report(0.1 * number, number)
        for number in range(ATTRIBUTES):
            trial.set_user_attr(f"a{number}", number)
        study.tell(trial, 0.5)
    return time.monotonic()


def work(contender: str, address: Address, name: str, runs: Path, quota: int, ready: Any, out: Any) -> None:
    silence_optuna()
    out.put((loop if contender == "loop" else bare)(address, name, runs, quota, ready))


def turn(contender: str, address: Address, arguments: argparse.Namespace, folder: Path) -> float:
    """Seconds for all trials, from the moment when every worker has opened the storage."""
    name = f"loop-{uuid.uuid4().hex[:10]}"
    storage = open_storage(address)
    if contender == "loop":
        plan = plan_of(name, arguments.trials, arguments.sampler)
        open_study(storage, plan, lambda study: folder / study)
    else:
        optuna.create_study(study_name=name, storage=storage, direction="maximize")
    context = multiprocessing.get_context("forkserver")
    ready, out = context.Barrier(arguments.workers + 1), context.Queue()
    share = [arguments.trials // arguments.workers] * arguments.workers
    processes = [
        context.Process(target=work, args=(contender, address, name, folder / name, quota, ready, out))
        for quota in share
    ]
    for process in processes:
        process.start()
    ready.wait(120)
    begun = time.monotonic()
    ended = max(out.get(timeout=600) for _ in processes)
    for process in processes:
        process.join()
    done = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    assert len(done) == sum(share), "trials were lost"
    assert all(trial.state is optuna.trial.TrialState.COMPLETE for trial in done)
    return ended - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--trials", type=int, default=60, help="a multiple of the workers")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--sampler", default="random", choices=("random", "tpe"), help="of the loop; bare draws at random"
    )
    parser.add_argument("--storage", help="an address; default a new SQLite file")
    arguments = parser.parse_args()
    multiprocessing.set_forkserver_preload(["jorge_tune.tuning.joining"])
    seconds: dict[str, list[float]] = {"loop": [], "bare": []}
    with tempfile.TemporaryDirectory() as folder:
        address = find_address(arguments.storage or f"{folder}/loop.db")
        for _ in range(arguments.repeats):
            for contender, of in seconds.items():
                of.append(turn(contender, address, arguments, Path(folder)))
    print(f"{address}, {arguments.workers} workers, {arguments.trials} trials, {os.cpu_count()} cores")
    for contender, of in seconds.items():
        each = [1000 * second / arguments.trials for second in of]
        print(f"{contender:5} {statistics.median(each):7.1f} ms per trial ({', '.join(f'{one:.1f}' for one in each)})")
    ratio = statistics.median(b / a for a, b in zip(seconds["loop"], seconds["bare"], strict=True))
    print(f"trials per second, loop / bare: {ratio:.2f}")


if __name__ == "__main__":
    main()
