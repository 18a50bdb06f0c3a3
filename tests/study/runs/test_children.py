"""Runs as child processes, from their worker's side: how each kind of end is told."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from jorge_tune.errors import InputError, JorgeTuneError
from jorge_tune.hardware import machine_clock
from jorge_tune.recipe.schema import ModelSection, SGDSection, TaskSection
from jorge_tune.records import RunDirectory, of_kind, outcome_of, read_records
from jorge_tune.study.jobs.client import ProcessEnd, RunJob, RunLauncher
from tests.house.test_imports import HEAVY, loaded_by
from tests.training.serving import end_of, is_alive, job, long_recipe, odd, pid_of, run, server_of_the_tests
from tests.training.small_recipes import digits_recipe
from tests.waiting import wait_until

_ONE_WORKER = """
import sys
from jorge_tune.study.jobs.client import RunJob, RunLauncher
server = RunLauncher(lent=int(sys.argv[3]))
child = server.start(RunJob(sys.argv[1], sys.argv[2], device="cpu", threads=1))
assert server.server_pid is None
while (ended := child.poll(None)) is None:
    pass
assert ended.outcome == "finished", ended
"""


@pytest.fixture(scope="module")
def server() -> RunLauncher:
    return server_of_the_tests()


def test_workers_share_the_server_that_they_are_lent(server: RunLauncher, tmp_path: Path) -> None:
    pid, lent = pid_of(server), server.lend()
    text = job(digits_recipe(epochs=1), tmp_path).recipe_text
    commands = [[sys.executable, "-c", _ONE_WORKER, text, str(tmp_path / str(n)), str(lent)] for n in range(3)]
    workers = [subprocess.Popen(command, pass_fds=(lent,)) for command in commands]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    assert server.lend() == lent
    assert pid_of(server) == pid
    assert is_alive(pid)


def records_of(out: Path) -> list[dict[str, object]]:
    return read_records(RunDirectory(out).records)


def test_a_worker_needs_no_torch() -> None:
    assert not loaded_by("import jorge_tune.study.jobs.client") & HEAVY


def test_a_run_finishes_and_tells_of_each_evaluation(server: RunLauncher, tmp_path: Path) -> None:
    seen = []
    with server.start(job(digits_recipe(), tmp_path / "run")) as child, selectors.DefaultSelector() as selector:
        selector.register(child, selectors.EVENT_READ)
        while (ended := child.poll()) is None:
            assert selector.select(timeout=30), "nothing happened"
            recorded = len(list(of_kind(records_of(tmp_path / "run"), "evaluation"))) if child.evaluations else 0
            seen.append((child.evaluations, recorded))
    assert ended == ProcessEnd("finished", "")
    assert child.poll() == ended
    assert child.evaluations == 3
    assert child.fileno() == -1
    assert all(told <= recorded for told, recorded in seen)
    assert outcome_of(records_of(tmp_path / "run")) == "finished"
    wait_until(lambda: not is_alive(child.pid))


def test_a_run_that_has_ended_is_not_trained_again(server: RunLauncher, tmp_path: Path) -> None:
    run(server, digits_recipe(), tmp_path / "run")
    before = RunDirectory(tmp_path / "run").records.read_bytes()
    assert run(server, digits_recipe(), tmp_path / "run").outcome == "finished"
    assert RunDirectory(tmp_path / "run").records.read_bytes() == before


@pytest.mark.parametrize("how", ["stop", "SIGTERM", "SIGINT"])
def test_a_run_that_is_asked_to_stop_writes_a_checkpoint_and_goes_on(
    server: RunLauncher, tmp_path: Path, how: str
) -> None:
    recipe = digits_recipe(epochs=2000)
    with server.start(job(recipe, tmp_path / "run")) as child:
        wait_until(lambda: child.poll(0.1) is None and child.evaluations > 1)
        child.stop("pruned") if how == "stop" else os.kill(child.pid, getattr(signal, how))
        ended = end_of(child)
    assert ended == ProcessEnd("interrupted", "pruned" if how == "stop" else f"stopped by {how}")
    end = records_of(tmp_path / "run")[-1]
    assert (end["outcome"], end["reason"]) == ("interrupted", ended.reason)
    with server.start(job(recipe, tmp_path / "run")) as child:
        wait_until(lambda: child.poll(0.1) is None and child.evaluations > 0)
    starts = list(of_kind(records_of(tmp_path / "run"), "start"))
    assert [start["step"] for start in starts] == [0, end["step"]]


def test_kill_ends_it_at_once(server: RunLauncher, tmp_path: Path) -> None:
    with server.start(job(long_recipe(), tmp_path / "run")) as child:
        wait_until(lambda: child.poll(0.1) is None and child.evaluations > 0)
        child.kill()
        assert end_of(child) == ProcessEnd("killed", "killed by SIGKILL")
        child.kill()
        child.stop("too late")
    assert outcome_of(records_of(tmp_path / "run")) is None


def test_a_crash_is_told_with_its_signal_and_place(server: RunLauncher, tmp_path: Path) -> None:
    ended = run(server, odd("segfault"), tmp_path / "run")
    assert ended.outcome == "killed"
    assert not ended.out_of_memory
    assert ended.reason.startswith("killed by SIGSEGV; it said: Fatal Python error: Segmentation fault | File ")
    assert "ctypes" in ended.reason
    assert len(ended.reason) < 300
    assert "odd_optimizers.py" in (tmp_path / "run" / "output.txt").read_text()


@pytest.mark.parametrize(
    ("act", "outcome", "reason"),
    [
        ("exit", "failed", "the run's process left with exit code 3"),
        ("leave", "failed", "SystemExit: 3"),
        ("die", "killed", "killed by SIGKILL"),
    ],
)
def test_other_ends_of_the_process(server: RunLauncher, tmp_path: Path, act: str, outcome: str, reason: str) -> None:
    ended = run(server, odd(act), tmp_path / "run")
    assert (ended.outcome, ended.reason, ended.out_of_memory, ended.input_error) == (outcome, reason, False, False)


def test_an_error_is_told_in_a_sentence_and_its_traceback_is_in_the_folder(server: RunLauncher, tmp_path: Path) -> None:
    ended = run(server, odd("complain"), tmp_path / "run")
    assert ended == ProcessEnd("failed", f"{tmp_path}/run: the run broke off after step 2: ValueError: no such luck")
    assert "odd_optimizers.py" in (tmp_path / "run" / "output.txt").read_text()
    assert records_of(tmp_path / "run")[-1]["outcome"] == "failed"


@pytest.mark.parametrize("act", ["no memory", "no memory on the gpu", "no memory for a tensor"])
def test_want_of_memory_is_told_by_its_type(server: RunLauncher, tmp_path: Path, act: str) -> None:
    ended = run(server, odd(act), tmp_path / "run")
    assert ended.outcome == "failed"
    assert ended.out_of_memory
    assert "memory" in ended.reason.lower()


def test_divergence_is_an_outcome(server: RunLauncher, tmp_path: Path) -> None:
    plain = ModelSection(name="mlp", args={"hidden": [16]})
    ended = run(server, digits_recipe(model=plain, optimizer=SGDSection(lr=1e30)), tmp_path / "run")
    assert ended.outcome == "diverged"
    assert "not finite" in ended.reason


def test_bad_input_is_told_apart_and_writes_nothing(server: RunLauncher, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = digits_recipe(task=TaskSection(kind="command", command=("no-such-program",)))
    for ended, words in (
        (run(server, digits_recipe(model=ModelSection(name="small_cmn")), out), "unknown model 'small_cmn'"),
        (run(server, digits_recipe(), out, device="abacus"), "'abacus' cannot be used here"),
        (run(server, command, out), "the program 'no-such-program' is not there"),
        (_run_text(server, "version: 1\nepoch: 3\n", out), f"{out} (recipe):2:1: epoch: unknown key"),
        (run(server, digits_recipe(), Path("/proc/run")), "/proc/run: the run directory cannot be written"),
    ):
        assert (ended.outcome, ended.input_error, ended.out_of_memory) == ("failed", True, False), ended
        assert words in ended.reason
    assert not list(tmp_path.iterdir())


def _run_text(server: RunLauncher, text: str, out: Path) -> ProcessEnd:
    with server.start(RunJob(text, str(out))) as child:
        return end_of(child)


def test_a_folder_in_use_is_refused(server: RunLauncher, tmp_path: Path) -> None:
    with server.start(job(long_recipe(), tmp_path / "run")) as child:
        wait_until(lambda: child.poll(0.1) is None and child.evaluations > 0)
        ended = run(server, long_recipe(), tmp_path / "run")
    assert not ended.input_error  # a fault of this one directory
    assert "another process is training in it" in ended.reason


def test_a_run_whose_worker_stands_still_ends_by_itself_and_leaves_a_checkpoint(
    server: RunLauncher, tmp_path: Path
) -> None:
    """The worker is there all the time, with its end of the connection open, and says no more."""
    with server.start(job(long_recipe(), tmp_path / "run")) as child:
        child.keep(60.0, 20.0)
        wait_until(lambda: child.poll(0.1) is None and child.evaluations > 0)
        child.keep(1.0, 20.0)
        began = time.monotonic()
        ended = end_of(child)
    assert time.monotonic() - began >= 1.0
    assert (ended.outcome, ended.reason.split(";")[0]) == ("interrupted", "its worker stands still")
    assert (tmp_path / "run" / "checkpoint" / "last.pt").is_file()


def test_a_job_carries_the_lease_of_a_worker_that_stands_still_before_it_hears_of_the_run(
    server: RunLauncher, tmp_path: Path
) -> None:
    """Its connection stays open, and nothing but the job ever comes over it."""
    asked = replace(job(long_recipe(), tmp_path / "run"), lease=(machine_clock() + 1.0, 20.0))
    with server.start(asked) as child:
        ended = end_of(child)
    assert (ended.outcome, ended.reason.split(";")[0]) == ("interrupted", "its worker stands still")


def test_a_run_does_not_begin_whose_lease_is_over_with_its_grace(server: RunLauncher, tmp_path: Path) -> None:
    """The trial may be another worker's by then, and the directory with it."""
    asked = replace(job(digits_recipe(epochs=1), tmp_path / "run"), lease=(machine_clock() - 30.0, 20.0))
    with pytest.raises(JorgeTuneError, match="ended before"):
        server.start(asked)
    assert not (tmp_path / "run").exists()


def test_a_run_that_hears_of_its_worker_again_goes_on(server: RunLauncher, tmp_path: Path) -> None:
    with server.start(job(long_recipe(), tmp_path / "run")) as child:
        for _ in range(6):
            child.keep(2.0, 20.0)
            assert child.poll(0.5) is None
        assert child.poll(0.5) is None
        child.kill()


def test_a_folder_that_is_not_the_workers_is_given_as_it_sees_it(
    server: RunLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(server, digits_recipe(epochs=1), Path("deep/run")).outcome == "finished"
    assert (tmp_path / "deep" / "run" / "records.jsonl").is_file()


def test_stop_and_kill_may_come_from_other_threads_at_any_time(server: RunLauncher, tmp_path: Path) -> None:
    child = server.start(job(digits_recipe(epochs=1), tmp_path / "run"))
    done = threading.Event()

    def interfere() -> None:
        while not done.is_set():
            child.stop("now")

    thread = threading.Thread(target=interfere)
    thread.start()
    assert end_of(child).outcome in ("interrupted", "finished")
    done.set()
    thread.join()
    child.kill()
    child.close()


def test_dead_servers_are_replaced_and_runs_outlive_them(tmp_path: Path) -> None:
    """A run goes on without its server, and its worker still learns of its end.

    Whoever was lent a server that died starts one of its own, as the lender does for those that come later.
    """
    with RunLauncher(grace_seconds=2.5) as lender, RunLauncher(lent=os.dup(lender.lend()), grace_seconds=2.5) as server:
        with server.start(job(digits_recipe(epochs=30), tmp_path / "first")) as child:
            first = pid_of(lender)
            assert server.server_pid is None
            os.kill(first, signal.SIGKILL)
            wait_until(lambda: not is_alive(first))
            assert end_of(child) == ProcessEnd("finished", "")
            wait_until(lambda: not is_alive(child.pid))
        killed, given_up = (server.start(job(long_recipe(), tmp_path / name)) for name in ("killed", "given up"))
        second = pid_of(server)
        lender.warm_up()
        assert len({first, second, pid_of(lender)}) == 3
        wait_until(lambda: given_up.poll(0.1) is None and given_up.evaluations > 0)
        os.kill(second, signal.SIGTERM)  # it leaves when its last run has ended
        assert given_up.poll(0.5) is None
        assert is_alive(second)
        os.kill(second, signal.SIGKILL)
        wait_until(lambda: not is_alive(second))
        assert is_alive(killed.pid)
        killed.kill()
        assert end_of(killed) == ProcessEnd("killed", "the run's process died, and its server before it")
        given_up.close()
        wait_until(lambda: not is_alive(given_up.pid))
    end = records_of(tmp_path / "given up")[-1]
    assert (end["outcome"], end["reason"]) == ("interrupted", "its worker is gone")


def test_a_server_that_does_not_answer_is_named(
    server: RunLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = pid_of(server)
    monkeypatch.setattr("jorge_tune.study.jobs.client._START_SECONDS", 0.3)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(JorgeTuneError, match=rf"process {pid}\) did not start a run in 0\.3 s"):
            server.start(job(digits_recipe(), tmp_path / "run"))
    finally:
        os.kill(pid, signal.SIGCONT)
    assert run(server, digits_recipe(epochs=1), tmp_path / "run").outcome == "finished"


def test_a_server_that_cannot_load_torch_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch.so: wrong ELF class')")
    monkeypatch.syspath_prepend(tmp_path)
    with RunLauncher() as other:
        for _ in range(2):
            with pytest.raises(JorgeTuneError, match=r"could not start a run: ImportError: libtorch.so: wrong ELF"):
                other.start(job(digits_recipe(), tmp_path / "run"))


def test_without_fork_there_is_one_clear_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(InputError, match="needs Linux, not win32; WSL has it"):
        RunLauncher().warm_up()


def test_a_worker_that_does_not_listen_holds_no_run_up(server: RunLauncher, tmp_path: Path) -> None:
    """More evaluations than the connection can hold; the end is not lost for that."""
    epochs = int(Path("/proc/sys/net/core/wmem_default").read_text()) // 700  # a message takes 704 bytes or more of it
    recipe = digits_recipe(model=ModelSection(name="mlp", args={"hidden": [4]}), epochs=epochs, batch_size=2000)
    with server.start(job(recipe, tmp_path / "run")) as child:
        wait_until(lambda: (tmp_path / "run" / "records.jsonl").is_file())
        wait_until(lambda: outcome_of(records_of(tmp_path / "run")) == "finished", 60)
        assert end_of(child) == ProcessEnd("finished", "")
        assert 0 < child.evaluations < epochs + 1


def test_a_run_that_was_given_up_ends(server: RunLauncher, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with contextlib.suppress(KeyboardInterrupt), server.start(job(long_recipe(), tmp_path / "run")) as child:
        raise KeyboardInterrupt
    assert len(os.listdir("/proc/self/fd")) == before
    wait_until(lambda: not is_alive(child.pid))
