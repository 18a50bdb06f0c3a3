"""One run in a forked process: it takes a job, reports what happens, and says how it ended wherever it still can."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from jorge_tune.errors import InputError, JorgeTuneError, KilledCommandError, RunDirectoryError
from jorge_tune.files import open_regular
from jorge_tune.hardware import machine_clock, oom_kills
from jorge_tune.one_run import train_any
from jorge_tune.recipe.recipe_files import parse_recipe
from jorge_tune.recipe.user_code import CodePlaces, restricted_to
from jorge_tune.records import RunDirectory
from jorge_tune.runs.run_journal import RunProgress
from jorge_tune.runs.stop_request import StopRequest
from jorge_tune.study.jobs.channel import Channel

_NO_MEMORY = (  # of errors that have no type of their own
    *("DefaultCPUAllocator: can't allocate memory", "CUDA error: out of memory"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
)
_OOM_SCORE = "100"  # so that the kernel's OOM killer ends a run before its server or worker


def run_child(channel: Channel, grace_seconds: float) -> None:
    """Take a job from the worker, do it, tell how it ended, and exit.

    Args:
        channel: to the worker, and this process's alone; its end means that the worker is gone.
        grace_seconds: how long the run may then take to write its checkpoint.
    """
    os.setsid()  # a group of its own, so that whatever it starts can be ended with it
    os.register_at_fork(after_in_child=channel.close)  # loader workers would keep it open
    stop = StopRequest()
    watch = _WorkerWatch(channel, stop, grace_seconds)
    job = watch.next()
    if job is None or channel.is_abandoned():  # the server was long in coming, and nobody waits any more
        os._exit(0)
    if job["lease"] is not None:
        until, grace_seconds = job["lease"]
        left = until - machine_clock()
        if left + grace_seconds <= 0:  # the trial may be another worker's by now
            os._exit(0)
        watch.allow(left, grace_seconds)

    with stop, _Output(RunDirectory(Path(job["out"]))) as output:
        threading.Thread(target=watch.follow, daemon=True).start()
        channel.offer({"event": "started", "pid": os.getpid()})
        end = _outcome(job, stop, channel, output)
    with contextlib.suppress(OSError):
        channel.send({"event": "end"} | end)
    os._exit(0)


class _WorkerWatch:
    """Hears the worker, from a thread: passes a stop request on, and ends the run once the worker is gone."""

    def __init__(self, channel: Channel, stop: StopRequest, grace_seconds: float) -> None:
        self._channel, self._stop, self._grace_seconds = channel, stop, grace_seconds
        self._deadline: float | None = None  # by `time.monotonic`: when to wait no longer

    def allow(self, seconds: float, grace_seconds: float) -> None:
        """Let the run go on for so long without hearing of the worker; then it has so much grace to end by itself."""
        self._deadline = time.monotonic() + max(0.0, seconds)
        self._grace_seconds = grace_seconds

    def next(self) -> dict[str, Any] | None:
        """The next message; None once the worker is gone, or at the deadline."""
        left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        try:
            return self._channel.receive(left)
        except EOFError:
            return None

    def follow(self) -> None:
        """Until the worker is gone or stands still; then end the run, hard if it does not end by itself.

        A worker that stands still cannot renew its lease, so another one may soon begin the same trial elsewhere.
        """
        while (message := self.next()) is not None:
            if "lease" in message:
                self.allow(*message["lease"])
            else:
                self._stop.ask(message["stop"])

        stands_still = self._deadline is not None and time.monotonic() >= self._deadline
        self._stop.ask("its worker stands still" if stands_still else "its worker is gone")
        signal.setitimer(signal.ITIMER_REAL, self._grace_seconds)  # the kernel's, for native calls that hold the GIL
        time.sleep(self._grace_seconds)
        os._exit(1)


class _Output:
    """Collects stdout and stderr: in memory until the run directory exists, then in its output.txt."""

    def __init__(self, directory: RunDirectory) -> None:
        self._path, self._directory = directory.root / "output.txt", directory
        self._early: BinaryIO | None = None

    def __enter__(self) -> _Output:
        self._early = os.fdopen(os.memfd_create("output"), "w+b")
        self._take(self._early.fileno())
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        faulthandler.enable()  # a segmentation fault leaves the Python stack there
        if self._directory.recipe.is_file():
            self.move()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        with contextlib.suppress(OSError):
            if self._early is None and self._path.stat().st_size == 0:
                self._path.unlink()

    def on_progress(self, progress: RunProgress) -> None:
        if progress.event == "start":
            self.move()

    def move(self) -> None:
        """Move what was collected to the run directory, and continue there."""
        if self._early is None:
            return
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        with (
            contextlib.suppress(OSError, InputError),  # a run does not fail for its printed output
            os.fdopen(open_regular(self._path, flags), "ab") as file,
        ):
            self._early.seek(0)
            file.write(self._early.read())
            file.flush()
            self._take(file.fileno())
            self._early.close()
            self._early = None

    @staticmethod
    def _take(descriptor: int) -> None:
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)


def _outcome(job: Mapping[str, Any], stop: StopRequest, channel: Channel, output: _Output) -> dict[str, Any]:
    """Train, and say how it ended."""

    def on_progress(progress: RunProgress) -> None:
        output.on_progress(progress)
        if progress.event == "evaluation":
            channel.offer({"event": "evaluation", "step": progress.step})

    kills_before = oom_kills()
    try:
        _adopt_process_state(job)
        recipe = parse_recipe(job["recipe"], f"{job['out']} (recipe)").recipe
        recipe = restricted_to(recipe, CodePlaces(*job["code"]))
        result = train_any(
            recipe,
            Path(job["out"]),
            device=job["device"],
            threads=job["threads"],
            resume=True,
            progress=on_progress,
            download=job["download"],
            stop=stop,
            loggers=job["loggers"],
        )
        return _end(result.outcome, result.reason)
    except (
        RunDirectoryError
    ) as error:  # this run's own directory (a damaged checkpoint, say); other runs are not affected
        return _end("failed", str(error))
    except InputError as error:
        return _end("failed", str(error), input_error=True)
    except KilledCommandError as error:
        return _end("killed", str(error), out_of_memory=error.out_of_memory)
    except KeyboardInterrupt:
        return _end("interrupted", "stopped at once by a second SIGINT")
    except BaseException as error:  # the process ends here: the worker hears of everything
        with contextlib.suppress(OSError):
            traceback.print_exc()
        reason = str(error) if isinstance(error, JorgeTuneError) else f"{type(error).__name__}: {error}".split("\n")[0]
        return _end("failed", reason, out_of_memory=_is_out_of_memory(error, oom_kills() != kills_before))


def _end(outcome: str, reason: str, *, out_of_memory: bool = False, input_error: bool = False) -> dict[str, Any]:
    return {"outcome": outcome, "reason": reason, "out_of_memory": out_of_memory, "input_error": input_error}


def _adopt_process_state(job: Mapping[str, Any]) -> None:
    """Take the worker's environment, directory, import path and threads instead of the server's."""
    gc.enable()
    os.environ.clear()
    os.environ.update(job["environment"])
    time.tzset()
    tempfile.tempdir = None
    if "numpy" in sys.modules:  # otherwise all runs of a server would draw the same numbers
        sys.modules["numpy"].random.seed()
    sys.path[:] = job["path"]
    os.chdir(job["directory"])
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    if job["threads"] is not None and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(job["threads"])


def _is_out_of_memory(error: BaseException | None, was_oom_kill_counted: bool) -> bool:
    """Whether an error or one of its causes means out of memory; so does a loader worker's death after an OOM kill."""
    while error is not None:
        words = str(error)
        is_of_gpu = "torch" in sys.modules and isinstance(error, sys.modules["torch"].OutOfMemoryError)
        if is_of_gpu or isinstance(error, MemoryError) or any(phrase in words for phrase in _NO_MEMORY):
            return True
        if was_oom_kill_counted and "DataLoader worker" in words:
            return True
        error = error.__cause__
    return False
