"""The supervisor of several workers on one machine: it starts them, restarts them when they die, and stops them.

A worker hears of its supervisor's death by a pipe that only the supervisor holds open. The first SIGINT or SIGTERM lets
every run write a checkpoint; a second one ends all workers at once, and their runs then end by themselves.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from jorge_tune.errors import EXIT_INTERRUPTED, InputError
from jorge_tune.hardware import nvidia, torch_cuda_build, usable_cores, visible_gpus
from jorge_tune.study.jobs.client import RunLauncher
from jorge_tune.study.stop import WorkerStops
from jorge_tune.study.storage.address import Address
from jorge_tune.study.worker import ExitKind, WorkerExit, WorkerMessage, WorkerStart

_LOOK_SECONDS = 1.0
_MOST_RESTARTS = 5  # of one worker in a row, while it begins no trial
_MOST_IN_VAIN = 10  # times the number of workers: restarts of all in a row, while no trial ends
_RESTART_PAUSES = (0.0, 1.0, 2.0, 5.0, 10.0)
_LAST_LINES = 3
_BY_WEIGHT: tuple[ExitKind, ...] = ("fault", "stopped", "time", "done", "interrupted", "error")


def shares(workers: int, device: str, threads: int | None) -> list[tuple[str, int | None]]:
    """Device and CPU threads of each worker: GPUs in turn, and an even share of the cores unless threads are given."""
    gpus = len(visible_gpus(nvidia())) if torch_cuda_build() and device in ("auto", "cuda") else 0
    even = threads or (None if workers == 1 else max(1, len(usable_cores()) // workers))
    return [(f"cuda:{index % gpus}" if gpus else device, even) for index in range(workers)]


@dataclass
class _Slot:
    """One worker's place: its process, its last words, and how often it was restarted since a trial began there."""

    number: int
    start: WorkerStart
    process: subprocess.Popen[bytes] | None = None
    received: bytes = b""
    words: tuple[str, ...] = ()
    worker_exit: WorkerExit | None = None
    restarts: int = 0
    due: float | None = 0.0  # when to start the process; None: not again

    @property
    def output(self) -> int:
        """The descriptor of the worker's output."""
        assert self.process is not None
        assert self.process.stdout is not None
        return self.process.stdout.fileno()


class Supervisor:
    """Runs workers until all have stopped; `supervise` may be called once.

    Args:
        address: the storage's; workers get it by an environment variable.
        starts: one for each worker.
        report: receives the workers' messages, with the number of the worker (None: the supervisor itself).
        last_word: called when a second signal has ended all workers, just before this process ends too.
        launcher: its fork server starts the workers' runs; None: a server for these workers alone.
    """

    def __init__(
        self,
        address: Address,
        starts: Sequence[WorkerStart],
        report: Callable[[WorkerMessage, int | None], None] = lambda message, worker: None,
        last_word: Callable[[], None] = lambda: None,
        launcher: RunLauncher | None = None,
    ) -> None:
        self._environment = {**os.environ, **address.for_environment()}
        self._report, self._last_word = report, last_word
        self._launcher, self._owns_launcher = launcher or RunLauncher(), launcher is None
        self._lifeline, self._lifeline_write = os.pipe()
        self._slots = [_Slot(n, replace(start, supervisor=self._lifeline)) for n, start in enumerate(starts)]
        self._stops = WorkerStops(self._end_at_once)
        self._passed_on = False
        self._fault: WorkerExit | None = None
        self._ended = self._in_vain = 0

    def supervise(self) -> WorkerExit:
        """Start the workers and wait until all have stopped; signals are taken as stop requests, in the main thread.

        Returns:
            Why they stopped; `error` if no worker could say so.
        """
        try:
            with self._stops.listening():
                while any(slot.process is not None or slot.due is not None for slot in self._slots):
                    self._start_due_workers()
                    running = [slot for slot in self._slots if slot.process is not None]
                    self._stops.wait(_LOOK_SECONDS, *(slot.output for slot in running))
                    for slot in running:
                        self._attend(slot)
                    self._pass_request_on()
        finally:
            self._kill_all()
            if self._owns_launcher:
                self._launcher.close()
            self._stops.close()
            os.close(self._lifeline_write)
            os.close(self._lifeline)
        return self._summary()

    @property
    def pids(self) -> list[int]:
        """The workers' processes."""
        return [slot.process.pid for slot in self._slots if slot.process is not None]

    def _start_due_workers(self) -> None:
        for slot in self._slots:
            if slot.process is not None or slot.due is None or time.monotonic() < slot.due:
                continue
            slot.due, slot.received, slot.words, slot.worker_exit = None, b"", (), None
            fork_server = self._launcher.lend()
            slot.process = subprocess.Popen(
                replace(slot.start, fork_server=fork_server).command(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self._environment,
                pass_fds=(self._lifeline, fork_server),
                start_new_session=True,  # Ctrl-C reaches the supervisor alone, which passes it on once
            )
            os.set_blocking(slot.output, False)

    def _attend(self, slot: _Slot) -> None:
        """Read a worker's output; if that was its end, decide what comes next."""
        assert slot.process is not None
        while True:
            try:
                chunk = os.read(slot.output, 1 << 16)
            except BlockingIOError:
                return
            if not chunk:
                break

            *lines, slot.received = (slot.received + chunk).split(b"\n")
            for line in lines:
                self._read_line(slot, line)

        code = slot.process.wait()
        assert slot.process.stdout is not None
        slot.process.stdout.close()
        slot.process = None
        self._after_exit(slot, code)

    def _read_line(self, slot: _Slot, line: bytes) -> None:
        try:
            fields = json.loads(line)
            if "kind" in fields:
                slot.worker_exit = WorkerExit(**fields)
                return
            message = WorkerMessage(**fields)
        except (ValueError, TypeError):  # a warning, or a traceback
            slot.words = (*slot.words, line.decode(errors="replace"))[-_LAST_LINES:]
            return

        if message.state in ("complete", "pruned", "failed"):
            self._ended += 1
            self._in_vain = 0
        if message.state == "running":
            slot.restarts = 0
        self._report(message, slot.number)

    def _after_exit(self, slot: _Slot, code: int) -> None:
        """Decide what follows the end of a worker's process: a restart if it was killed or lost its storage."""
        worker_exit = slot.worker_exit
        if worker_exit is not None and worker_exit.kind != "error":
            if worker_exit.kind == "fault":  # the other workers may not hear of it, if the storage takes nothing more
                self._end_all(worker_exit)
            return
        if self._stops.request is not None:
            return
        if worker_exit is not None and code == InputError.exit_code:
            self._end_all(worker_exit)
            return

        words = worker_exit.reason if worker_exit is not None else " | ".join(slot.words)
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        reason = words or how
        slot.restarts += 1
        self._in_vain += 1
        if slot.restarts > _MOST_RESTARTS or self._in_vain > _MOST_IN_VAIN * len(self._slots):
            slot.worker_exit = WorkerExit("error", f"worker {slot.number + 1} ended again and again: {reason}", 1)
            self._report(WorkerMessage(f"is not started again ({reason})"), slot.number)
            return

        pause = _RESTART_PAUSES[min(slot.restarts, len(_RESTART_PAUSES)) - 1]
        slot.due = time.monotonic() + pause
        self._report(WorkerMessage(f"ended ({reason}) and is started again"), slot.number)

    def _end_all(self, worker_exit: WorkerExit) -> None:
        """Stop all workers for a fault that would stop each of them."""
        self._fault = self._fault or worker_exit
        self._stops.ask("fault", worker_exit.reason)

    def _pass_request_on(self) -> None:
        """Ask every worker to stop, once."""
        request = self._stops.request
        if request is None or self._passed_on:
            return

        self._passed_on = True
        if self.pids:
            self._report(
                WorkerMessage(f"{request.reason}: every run writes a checkpoint and its trial waits to be resumed"),
                None,
            )
        for slot in self._slots:
            slot.due = None
            if slot.process is not None:
                # The workers name the signal as their reason.
                slot.process.send_signal(self._stops.first_signal or signal.SIGTERM)

    def _end_at_once(self) -> None:
        self._kill_all()
        self._last_word()

    def _kill_all(self) -> None:
        for slot in self._slots:
            if slot.process is not None:
                slot.process.kill()

    def _summary(self) -> WorkerExit:
        request = self._stops.request
        if request is not None and request.kind == "signal":
            return WorkerExit("interrupted", request.reason, EXIT_INTERRUPTED, self._ended)
        if self._fault is not None:
            return self._fault._replace(trials=self._ended)

        exits = [slot.worker_exit for slot in self._slots if slot.worker_exit is not None]
        for kind in _BY_WEIGHT:
            worker_exit = next((each for each in exits if each.kind == kind), None)
            if worker_exit is not None:
                return worker_exit._replace(trials=self._ended)
        return WorkerExit("error", "all workers died without a reason", 1, self._ended)
