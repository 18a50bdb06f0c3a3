"""Becoming a worker of a study: everything between the name of a study and the first trial."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from jorge_tune.tuning.runs.children import RunServer
from jorge_tune.tuning.runs.machine import Machine
from jorge_tune.tuning.runs.orders import EXIT_INTERRUPTED, Orders
from jorge_tune.tuning.runs.run_process import Runs
from jorge_tune.tuning.runs.runs_folder import RunsFolder
from jorge_tune.tuning.study import OpenStudy
from jorge_tune.tuning.work.calibration_process import calibrate_apart
from jorge_tune.tuning.work.constraint import IterationTimes
from jorge_tune.tuning.work.worker import Left, Told, Worker, WorkerSettings


def default_runs(study_name: str) -> Path:
    """Where a study's runs are, if nothing else is said."""
    return Path("studies") / study_name


def work_on(
    opened: OpenStudy,
    runs: Path,
    settings: WorkerSettings,
    orders: Orders,
    report: Callable[[Told], None] = lambda told: None,
    *,
    server: Runs | None = None,
) -> Left:
    """Work on a study until none of its trials is left to do, or there is a reason to leave.

    Args:
        opened: the study.
        runs: the folder for its runs.
        settings: of this worker.
        orders: from whom it hears that it should leave; listening already.
        report: hears what happens.
        server: who starts runs; None: this machine's run server.

    Raises:
        InputError: another version made the study, the folder belongs to another one, the device is not there, or this
            machine cannot start runs.
        JorgeTuneError: the storage stayed away, or no run can be started.
    """
    opened.check_version()
    folder = opened.enter(runs)
    if not folder.is_shared:
        report(Told(f"{runs} is not the folder that the study began with: trials lost elsewhere start anew here"))
    costs = prepare_costs(opened, folder, settings, orders, report)
    server = server or RunServer.connect()
    _hurry_when_told(opened, orders)
    return Worker(opened, folder, server, orders, settings, costs, report).work()


def prepare_costs(
    opened: OpenStudy,
    folder: RunsFolder,
    settings: WorkerSettings,
    orders: Orders,
    report: Callable[[Told], None] = lambda told: None,
) -> IterationTimes:
    """The study's iteration times on this worker's device, measured alone on the machine where they are missing.

    Raises:
        InputError: the device is not there, or the recipe cannot be calibrated on it.
    """
    costs = IterationTimes(opened, device=settings.device, threads=settings.threads)
    if not costs.missing():
        return costs
    with Machine(folder.path).holding(orders.wait, alone=True) as held:
        costs.look_up()  # another worker may have measured while we waited
        if held:
            calibrate = partial(calibrate_apart, wait=orders.wait)
            costs.measure(calibrate, lambda text: report(Told(text)))
    return costs


def measure_first(
    opened: OpenStudy,
    runs: Path,
    settings: WorkerSettings,
    report: Callable[[Told], None] = lambda told: None,
    last_word: Callable[[], None] = lambda: None,
) -> Left | None:
    """Calibrate what a study's constraint needs, before its workers are started and make the machine busy.

    Signals are taken meanwhile, in the main thread; None: nothing stands in the way of going on. `last_word` is called
    when a second one ends this process at once. Raises as `prepare_costs` does.
    """
    orders = Orders(last_word)
    try:
        with orders.listening():
            prepare_costs(opened, opened.enter(runs), settings, orders, report)
        order = orders.order
        return None if order is None else Left("interrupted", order.reason, EXIT_INTERRUPTED)
    finally:
        orders.close()


def _hurry_when_told(opened: OpenStudy, orders: Orders) -> None:
    """Do not wait for a storage that is gone once there is a signal to leave."""
    patience = getattr(opened.storage, "patience", None)
    if patience is not None:
        patience.unwanted = lambda: orders.order is not None and orders.order.kind in ("signal", "supervisor")
