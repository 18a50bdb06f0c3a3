"""What the study engine costs: empty trials by claims, against bare Optuna, with the same workers on the same storage.

    python benchmarks/study_engine.py --case sqlite:8 --case sqlite:1 --out study-engine.json
    python benchmarks/study_engine.py --postgresql postgresql://postgres@127.0.0.1/test --case postgresql:32

A trial has 5 parameters, 5 reports and 3 attributes, and no run. Workers are processes; all have opened the storage
before the clock starts, which stops when the last of them is done. Contenders take turns, the order turning from repeat
to repeat:

engine        claims of a study's total, each trial with a sampler of its own; each trial ended under its claim
worker        the whole loop of `study worker`, with runs that write their records and train nothing: leases renewed by
              a thread, lost trials looked for, directories and records of the runs
bare          `study.ask` and `study.tell` on a storage as Optuna opens it by itself, the trials dealt out evenly
bare-tuned    the same on the storage as `open_storage` opens it
bare-pruned   as bare, and Optuna's median pruner is asked after every report, as the worker's is: the worker's measure

An audit follows every turn: lost, doubled and unfinished trials, errors by their kind, points drawn twice. `ms per
trial` is a worker's own time for one, in the middle and at worst: SQLite's lock is not fair, so that one may wait long.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

sys.path.insert(0, str(Path(__file__).parents[1]))  # for what tests and benchmarks share

from jorge_tune.cli.output import plain_table
from jorge_tune.files import write_whole
from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.study.constraint import IterationTimes
from jorge_tune.study.plan import StudyPlan
from jorge_tune.study.samplers import seed_of
from jorge_tune.study.space import ChoiceParameter, FactorParameter, SearchSpace
from jorge_tune.study.stop import WorkerStops
from jorge_tune.study.storage.address import Address, find_address
from jorge_tune.study.storage.open import claims_for, open_storage, silence_optuna
from jorge_tune.study.study import join_study, open_study
from jorge_tune.study.study_schema import Objective
from jorge_tune.study.worker import Worker, WorkerMessage, WorkerSettings
from tests.study.empty_runs import EmptyRuns
from tests.training.small_recipes import digits_recipe

PARAMETERS, REPORTS, ATTRIBUTES = 5, 5, 3
CONTENDERS = ("engine", "worker", "bare", "bare-tuned", "bare-pruned")
HEADINGS = (
    "case",
    "contender",
    "trials/s",
    "ms per trial",
    "at worst",
    "/bare",
    "/tuned",
    "/pruned",
    "errors",
    "faults",
)
MEASURES = (("engine", "bare"), ("engine", "bare-tuned"), ("worker", "bare-pruned"))
CASES = ("sqlite:1", "sqlite:8", "mysql:1", "mysql:8", "postgresql:1", "postgresql:32", "journal:1", "journal:8")


class Turn(NamedTuple):
    """One contender's turn, in plain data."""

    contender: str
    seconds: float
    trials: int
    trial_seconds: list[float]
    errors: dict[str, int]
    audit: dict[str, int]


class Done(NamedTuple):
    """What one worker did: the numbers of its trials, how long each took, errors, and when it ended."""

    numbers: list[int]
    seconds: list[float]
    errors: list[str]
    ended: float


def sampler_for(name: str, seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=seed) if name == "tpe" else optuna.samplers.RandomSampler(seed=seed)


def fill(trial: optuna.Trial, *, ask_pruner: bool = False) -> float:
    """An empty trial: everything that is stored, nothing that is computed."""
    total = sum(trial.suggest_float(f"p{index}", 0.0, 1.0) for index in range(PARAMETERS))
    for step in range(REPORTS):
        trial.report(total, step)
        if ask_pruner:
            trial.should_prune()
    for index in range(ATTRIBUTES):
        trial.set_user_attr(f"a{index}", index)
    return total


def plain_storage(address: Address) -> optuna.storages.BaseStorage | str:
    """The storage as Optuna opens it when it is handed the address."""
    if address.kind == "journal":
        return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(address.path)))
    return address.url


def engine_loop(address: Address, name: str, total: int, worker: int, sampler: str, ready: Any) -> Done:
    storage = open_storage(address)
    study = optuna.load_study(study_name=name, storage=storage, sampler=sampler_for(sampler, 0))
    claims = claims_for(storage, study._study_id)
    done = Done([], [], [], 0.0)
    ready.wait()
    while True:
        start = time.monotonic()
        try:
            claim = claims.claim(f"w{worker}", total)
            if claim is None:
                break
            study._thread_local.cached_all_trials = None
            study.sampler = sampler_for(sampler, seed_of(7, claim.number))
            trial = optuna.Trial(study, claim.trial_id)
            value = fill(trial)
            study.sampler.after_trial(study, trial._cached_frozen_trial, TrialState.COMPLETE, [value])
            if claims.finish(claim, TrialState.COMPLETE, [value]):
                done.numbers.append(claim.number)
        except Exception as error:
            done.errors.append(kind_of(error))
            continue
        done.seconds.append(time.monotonic() - start)
    return done._replace(ended=time.monotonic())


def five_parameters(name: str, trials: int, sampler: str) -> StudyPlan:
    """A plan whose trials have as much to store as the others'."""
    baseline = digits_recipe()
    recipe = bootstrap(baseline).recipe
    optimizer = recipe.optimizer
    choices = {"refresh_interval": (5, 10, 20, 50), "momentum": (0.8, 0.9, 0.95), "block_size": (256, 512, 1024)}
    at = {"refresh_interval": 10, "momentum": 0.9, "block_size": 1024}
    factors = {"lr": optimizer.lr, "weight_decay": optimizer.weight_decay}
    parameters = [
        *(FactorParameter(name=f"{key}_factor", path=f"optimizer.{key}", centre=centre, low=0.25, high=4.0)
          for key, centre in factors.items()),
        *(ChoiceParameter(name=key, path=f"optimizer.{key}", labels=values, values=values, bootstrap=at[key])
          for key, values in choices.items()),
    ]  # fmt: skip
    return StudyPlan(
        name=name,
        recipe=recipe,
        baseline=baseline,
        space=SearchSpace(recipe, tuple(parameters)),
        objective=Objective(kind="final", metric="top1"),
        sampler=sampler,
        pruner="median",
        trials=trials,
        overhead=None,
        device="cpu",
        threads=1,
    )


def worker_loop(address: Address, name: str, folder: str, ready: Any) -> Done:
    opened = join_study(open_storage(address), name)
    done = Done([], [], [], 0.0)
    began: dict[int, float] = {}

    def hear(told: WorkerMessage) -> None:
        if told.what == "began" and told.trial is not None:
            began[told.trial] = time.monotonic()
        elif told.trial is not None:
            done.numbers.append(told.trial)
            done.seconds.append(time.monotonic() - began[told.trial])

    stops = WorkerStops()
    settings, costs = WorkerSettings(device="cpu", threads=1), IterationTimes(opened, device="cpu", threads=1)
    runs = EmptyRuns(lambda lr, seed, evaluation: 0.5)
    worker = Worker(opened, opened.enter(Path(folder)), runs, stops, settings, costs, hear)
    ready.wait()
    left = worker.work()
    if left.kind != "done":
        done.errors.append(f"{left.kind}: {left.reason}")
    stops.close()
    return done._replace(ended=time.monotonic())


def bare_loop(storage: Any, name: str, quota: int, worker: int, sampler: str, prunes: bool, ready: Any) -> Done:
    study = optuna.load_study(study_name=name, storage=storage, sampler=sampler_for(sampler, worker))
    done = Done([], [], [], 0.0)
    ready.wait()
    for _ in range(quota):
        start = time.monotonic()
        try:
            trial = study.ask()
            study.tell(trial, fill(trial, ask_pruner=prunes))
            done.numbers.append(trial.number)
        except Exception as error:
            done.errors.append(kind_of(error))
            continue
        done.seconds.append(time.monotonic() - start)
    return done._replace(ended=time.monotonic())


def kind_of(error: BaseException) -> str:
    cause = error.__cause__ or error
    return f"{type(error).__name__}: {str(getattr(cause, 'orig', cause)).splitlines()[0][:80]}"


def work(what: tuple[str, Address, str, str, str], share: tuple[int, int, int], ready: Any, out: Any) -> None:
    """One worker process; `share` is its index, its quota, and the study's total."""
    contender, address, name, sampler, folder = what
    worker, quota, total = share
    silence_optuna()
    if contender == "engine":
        done = engine_loop(address, name, total, worker, sampler, ready)
    elif contender == "worker":
        done = worker_loop(address, name, f"{folder}/{name}", ready)
    else:
        storage = open_storage(address) if contender == "bare-tuned" else plain_storage(address)
        done = bare_loop(storage, name, quota, worker, sampler, contender == "bare-pruned", ready)
    out.put(done)


def take_turn(contender: str, address: Address, workers: int, trials: int, sampler: str, folder: str) -> Turn:
    name = f"bench-{uuid.uuid4().hex[:12]}"
    context = multiprocessing.get_context("forkserver")
    with_storage = open_storage(address)
    if contender == "worker":
        open_study(with_storage, five_parameters(name, trials, sampler), lambda study: Path(folder) / study)
    else:
        optuna.create_study(study_name=name, storage=with_storage)
    what = (contender, address, name, sampler, folder)
    ready, out = context.Barrier(workers + 1), context.Queue()
    processes = []
    for worker in range(workers):
        quota = trials // workers + (worker < trials % workers)
        share = (worker, quota, trials)
        processes.append(context.Process(target=work, args=(what, share, ready, out)))
        processes[-1].start()
    ready.wait(300)
    start = time.monotonic()
    done = [out.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    study = optuna.load_study(study_name=name, storage=with_storage)
    turn = Turn(
        contender,
        max(each.ended for each in done) - start,
        trials,
        [round(second, 5) for each in done for second in each.seconds],
        dict(Counter(error for each in done for error in each.errors)),
        audit(
            contender, study.get_trials(deepcopy=False), [number for each in done for number in each.numbers], trials
        ),
    )
    optuna.delete_study(study_name=name, storage=with_storage)
    with_storage.close()
    return turn


def audit(contender: str, stored: Sequence[FrozenTrial], claimed: Sequence[int], total: int) -> dict[str, int]:
    """What is wrong with a finished study, by name; all zero is right."""
    whole = [
        trial
        for trial in stored
        if trial.state is TrialState.COMPLETE
        and len(trial.params) == PARAMETERS
        and len(trial.intermediate_values) == REPORTS
        and (len(trial.user_attrs) == ATTRIBUTES or contender == "worker")
    ]
    return {
        "missing": max(0, total - len(stored)),
        "surplus": max(0, len(stored) - total),
        "not whole": len(stored) - len(whole),
        "numbers out of order": sum(number != trial.number for number, trial in enumerate(stored)),
        "run twice": sum(count - 1 for count in Counter(claimed).values()),
        "not claimed": total - len(set(claimed)),
        "points drawn twice": len(whole) - len({tuple(sorted(trial.params.items())) for trial in whole}),
    }


def summary(case: str, turns: Sequence[Turn]) -> dict[str, Any]:
    """Medians over the repeats of one case, ratios within a repeat."""
    by_name = {name: [turn for turn in turns if turn.contender == name] for name in CONTENDERS}
    rates = {name: [turn.trials / turn.seconds for turn in of] for name, of in by_name.items() if of}
    seconds = {name: [second for turn in of for second in turn.trial_seconds] for name, of in by_name.items() if of}
    each = {name: 1000 * statistics.median(of) for name, of in seconds.items()}
    worst = {name: 1000 * max(of) for name, of in seconds.items()}
    ratios = {
        f"{ours}/{name}": statistics.median(a / b for a, b in zip(rates[ours], rates[name], strict=True))
        for ours, name in MEASURES
        if ours in rates and name in rates
    }
    errors = {name: sum(sum(turn.errors.values()) for turn in of) for name, of in by_name.items() if of}
    faults = {name: sum(sum(turn.audit.values()) for turn in of) for name, of in by_name.items() if of}
    rate = {name: statistics.median(of) for name, of in rates.items()}
    return {
        "case": case,
        "rate": rate,
        "trial_ms": each,
        "worst_ms": worst,
        "ratio": ratios,
        "errors": errors,
        "faults": faults,
    }


def addresses(arguments: argparse.Namespace, folder: str) -> dict[str, Address]:
    given = {
        "sqlite": f"{folder}/bench.db",
        "journal": f"{folder}/bench.journal",
        "postgresql": arguments.postgresql or os.environ.get("JORGE_TUNE_TEST_POSTGRESQL"),
        "mysql": arguments.mysql or os.environ.get("JORGE_TUNE_TEST_MYSQL"),
    }
    return {kind: find_address(text) for kind, text in given.items() if text}


def run_case(case: str, address: Address, arguments: argparse.Namespace, folder: str) -> list[Turn]:
    workers = int(case.partition(":")[2])
    trials = arguments.trials or max(40, 20 * workers)
    turns = []
    for repeat in range(arguments.repeats):
        shift = repeat % len(arguments.contenders)
        for contender in [*arguments.contenders[shift:], *arguments.contenders[:shift]]:
            turns.append(take_turn(contender, address, workers, trials, arguments.sampler, folder))
    return turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", help=f"storage:workers, repeatable; default {' '.join(CASES)}")
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--trials", type=int, help="per turn; default 20 per worker, at least 40")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sampler", default="random", choices=("random", "tpe"))
    parser.add_argument("--postgresql", help="URL of a database to work in; default JORGE_TUNE_TEST_POSTGRESQL")
    parser.add_argument("--mysql", help="URL of a database to work in; default JORGE_TUNE_TEST_MYSQL")
    parser.add_argument("--folder", help="where the files are; default a temporary directory")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    multiprocessing.get_context("forkserver").set_forkserver_preload(["jorge_tune.study.worker", "alembic.command"])
    rows, results = [], []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        known = addresses(arguments, folder)
        for case in arguments.case or CASES:
            kind = case.partition(":")[0]
            if kind not in known:
                print(f"{case}: left out, no address")
                continue
            turns = run_case(case, known[kind], arguments, folder)
            result = summary(case, turns)
            results.append({**result, "turns": [turn._asdict() for turn in turns]})
            for name in result["rate"]:
                ratios = [result["ratio"].get(f"{name}/{other}") for other in ("bare", "bare-tuned", "bare-pruned")]
                rows.append([
                    case, name, f"{result['rate'][name]:.1f}", f"{result['trial_ms'][name]:.1f}",
                    f"{result['worst_ms'][name]:.0f}", *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
                    str(result["errors"][name]), str(result["faults"][name]),
                ])  # fmt: skip
    print(plain_table(HEADINGS, rows, right=HEADINGS[2:]))
    if arguments.out:
        about = {
            "sampler": arguments.sampler,
            "python": platform.python_version(),
            "optuna": optuna.__version__,
            "sqlalchemy": sqlalchemy.__version__,
            "cores": os.cpu_count(),
        }
        write_whole(arguments.out, json.dumps({"about": about, "cases": results}, indent=1), force=True)


if __name__ == "__main__":
    main()
