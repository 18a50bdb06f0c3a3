"""The fork server and the children it forks: what they inherit, what they leave behind, how they end."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
import torch

from jorge_tune.recipe.schema import JorgeSection, ModelSection, Recipe, SGDSection
from jorge_tune.records import RunDirectory, outcome_of, read_records
from jorge_tune.study.jobs.channel import Channel
from jorge_tune.study.jobs.client import ProcessEnd, RunLauncher
from jorge_tune.study.jobs.fork_server import ForkServer
from jorge_tune.training import train
from jorge_tune.training.checkpoint import Checkpoint, load_checkpoint
from tests.training.conftest import make_image_folder
from tests.training.serving import (
    GRACE_SECONDS,
    SECRETS,
    children_of,
    end_of,
    is_alive,
    job,
    long_recipe,
    odd,
    pid_of,
    run,
    server_of_the_tests,
)
from tests.training.small_recipes import digits_recipe, folder_recipe
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def server() -> RunLauncher:
    return server_of_the_tests()


def told_by(server: RunLauncher, out: Path, **changes: Any) -> dict[str, Any]:
    """What a run says of its process."""
    assert run(server, odd("tell"), out, **changes).outcome == "finished"
    facts: dict[str, Any] = json.loads((out / "output.txt").read_text())
    return facts


def sockets_of(pid: int) -> list[str]:
    """The descriptors of a process that are sockets."""
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found += [descriptor.name] if os.readlink(descriptor).startswith("socket:") else []
    return found


def state_of(out: Path) -> Checkpoint:
    checkpoint = load_checkpoint(RunDirectory(out).checkpoint)
    assert checkpoint is not None
    return checkpoint


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("optimizer", [SGDSection(lr=0.1, momentum=0.9), JorgeSection(lr=0.1)], ids=["sgd", "jorge"])
def test_a_child_trains_with_two_threads_bitwise_as_a_plain_process(
    server: RunLauncher, tmp_path: Path, optimizer: Any
) -> None:
    """Activations of 128 x 300 are above the size from which torch shares work among threads."""
    model = ModelSection(name="mlp", args={"hidden": [300], "dropout": 0.2})
    recipe = digits_recipe(model=model, optimizer=optimizer, epochs=None, steps=5)
    plain = train(recipe, tmp_path / "plain", device="cpu")
    assert run(server, recipe, tmp_path / "child", threads=2) == ProcessEnd("finished", "")
    assert json.loads(RunDirectory(tmp_path / "child").environment.read_text())["threads"] == 2
    ours, theirs = state_of(tmp_path / "plain").model, state_of(tmp_path / "child").model
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    (evaluation,) = [r for r in read_records(RunDirectory(tmp_path / "child").records) if r.get("part") == "test"]
    assert evaluation["metrics"] == plain.test_metrics


def test_a_child_has_its_own_threads_and_the_server_has_none(server: RunLauncher, tmp_path: Path) -> None:
    recipe = odd("tell", task=digits_recipe(model=ModelSection(name="mlp", args={"hidden": [512]})).task)
    for threads in (1, 2):
        assert run(server, recipe, tmp_path / str(threads), threads=threads).outcome == "finished"
        facts = json.loads((tmp_path / str(threads) / "output.txt").read_text())
        assert facts["torch_threads"] == threads
        assert facts["threads"] >= 1 + threads  # and the one that watches the connection
        assert facts["numpy_product"] == 300**3
    assert len(os.listdir(f"/proc/{pid_of(server)}/task")) == 1


def test_a_run_lives_in_its_workers_environment_not_in_the_servers(
    server: RunLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.setenv("OF_THIS_RUN", "grüße \udcff")
    monkeypatch.setattr(sys, "path", [*sys.path, "/only/here"])
    monkeypatch.chdir(tmp_path)
    facts = told_by(server, Path("first"))
    assert facts["environment"] == {name: value for name, value in os.environ.items() if name not in SECRETS}
    assert facts["environment"]["CUDA_VISIBLE_DEVICES"] == "7"
    assert facts["directory"] == str(tmp_path)
    assert facts["path"] == sys.path
    monkeypatch.delenv("OF_THIS_RUN")
    second = told_by(server, tmp_path / "second")
    assert not {"OF_THIS_RUN", "LEFT_BY_WHOEVER_STARTED_IT"} & second["environment"].keys()
    assert second["numpy_draw"] != facts["numpy_draw"]


def test_no_secret_of_its_starters_is_in_the_server_or_its_children(server: RunLauncher, tmp_path: Path) -> None:
    with server.start(job(long_recipe(), tmp_path / "run")) as child:
        for pid in (pid_of(server), child.pid):
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            assert b"OMP_WAIT_POLICY=" in environment
            assert not [name for name in SECRETS if name.encode() in environment]
            assert b"hunter2" not in environment + Path(f"/proc/{pid}/cmdline").read_bytes()


def test_ctrl_c_reaches_neither_server_nor_child(server: RunLauncher, tmp_path: Path) -> None:
    with server.start(job(long_recipe(), tmp_path / "run")) as child:
        assert os.getsid(child.pid) == os.getpgid(child.pid) == child.pid
        assert len({os.getsid(pid) for pid in (0, pid_of(server), child.pid)}) == 3
        for pid in (pid_of(server), child.pid):
            terminal = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[4]
            assert terminal == "0"


def test_a_child_holds_nothing_of_the_servers_and_prints_into_its_folder(
    server: RunLauncher, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with server.start(job(long_recipe(), tmp_path / "another")):
        facts = told_by(server, tmp_path / "run")
    sockets = [path for path in facts["descriptors"] if path.startswith("socket:")]
    assert len(sockets) == 1
    assert not [path for path in facts["descriptors"] if path.startswith("pipe:") or "jorge-tune-" in path]
    assert facts["descriptors"].count(str(tmp_path / "run" / "output.txt")) == 2
    assert capfd.readouterr() == ("", "")
    assert run(server, digits_recipe(epochs=1), tmp_path / "silent").outcome == "finished"
    assert not (tmp_path / "silent" / "output.txt").exists()


def test_what_is_printed_before_the_folder_stands_is_not_lost(
    server: RunLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "talking.py").write_text("import torch\nprint('early')\nTalking = torch.optim.SGD\n")
    monkeypatch.syspath_prepend(tmp_path)
    from jorge_tune.recipe.schema import CustomOptimizerSection

    recipe = digits_recipe(optimizer=CustomOptimizerSection(name="talking:Talking", lr=0.1), epochs=1)
    assert run(server, recipe, tmp_path / "run").outcome == "finished"
    assert (tmp_path / "run" / "output.txt").read_text() == "early\n"


def worker_process(server: RunLauncher, recipe: Recipe, out: Path) -> subprocess.Popen[str]:
    """A worker of its own that starts a run and waits for it; it prints the run's process number."""
    program = (
        "import sys\nfrom jorge_tune.study.jobs.client import RunJob, RunLauncher\n"
        f"server = RunLauncher(lent=int(sys.argv[3]), grace_seconds={GRACE_SECONDS})\n"
        "child = server.start(RunJob(sys.argv[1], sys.argv[2], 'cpu', 1))\nprint(child.pid, flush=True)\n"
        "while child.poll(None) is None: pass"
    )
    lent = server.lend()
    command = [sys.executable, "-c", program, job(recipe, out).recipe_text, str(out), str(lent)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=(lent,))


def test_a_run_whose_worker_is_killed_writes_a_checkpoint_and_ends(server: RunLauncher, tmp_path: Path) -> None:
    with worker_process(server, long_recipe(), tmp_path / "run") as worker:
        assert worker.stdout is not None
        pid = int(worker.stdout.readline())
        assert pid in children_of(pid_of(server))  # which this process lent to its worker
        wait_until(lambda: RunDirectory(tmp_path / "run").checkpoint.exists())
        worker.kill()
    wait_until(lambda: not is_alive(pid))
    end = read_records(RunDirectory(tmp_path / "run").records)[-1]
    assert (end["outcome"], end["reason"]) == ("interrupted", "its worker is gone")
    assert state_of(tmp_path / "run").position.step == end["step"]


@pytest.mark.parametrize("act", ["hang", "hang in a native call"])
def test_a_run_that_hangs_does_not_outlive_its_worker_by_more_than_the_grace_time(
    server: RunLauncher, tmp_path: Path, act: str
) -> None:
    mark = tmp_path / "hanging"
    child = server.start(job(odd(act, mark), tmp_path / "run"))
    wait_until(mark.exists)
    child.close()
    left = time.monotonic()
    wait_until(lambda: not is_alive(child.pid))
    assert 0.5 * GRACE_SECONDS < time.monotonic() - left < GRACE_SECONDS + 5


def test_a_killed_run_takes_its_loader_workers_along(server: RunLauncher, tmp_path: Path) -> None:
    images = make_image_folder(tmp_path / "images", size=16)
    recipe = folder_recipe(images, workers=2)
    mark = tmp_path / "hanging"
    with server.start(job(odd("hang", mark, task=recipe.task, batch_size=4), tmp_path / "run")) as child:
        wait_until(mark.exists)
        loaders = children_of(child.pid)
        assert len(loaders) >= 2
        killed = time.monotonic()
        os.kill(child.pid, signal.SIGKILL)
        assert end_of(child).reason == "killed by SIGKILL"
        assert time.monotonic() - killed < 4  # not only when the loaders have noticed by themselves
        wait_until(lambda: not any(map(is_alive, loaders)), 2)
    assert run(server, folder_recipe(images, workers=2), tmp_path / "whole").outcome == "finished"


def test_runs_in_a_row_leave_nothing_behind(
    server: RunLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))

    def descriptors() -> list[list[str]]:
        return [sorted(os.listdir(f"/proc/{process}/fd")) for process in ("self", pid)]

    pid = pid_of(server)
    wait_until(lambda: not children_of(pid) and len(sockets_of(pid)) == 1)  # the one for requests
    before = descriptors()
    ends = {"finished": digits_recipe(epochs=1), "killed": odd("die"), "failed": odd("complain")}
    for number in range(15):
        outcome, recipe = list(ends.items())[number % 3]
        assert run(server, recipe, tmp_path / "runs" / str(number)).outcome == outcome
    wait_until(lambda: not children_of(pid) and len(sockets_of(pid)) == 1)
    assert descriptors() == before
    assert not list(temporary.iterdir())
    assert not [path for path in (tmp_path / "runs").rglob("*") if "partial" in path.name]


@pytest.fixture
def requests() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of what requests come over, for a server in this process, whose signals are given back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)}
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs
    signal.set_wakeup_fd(-1)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def no_run(channel: Channel, grace_seconds: float) -> None:
    raise AssertionError("no child was asked for")


def test_a_server_leaves_once_nobody_can_ask_for_a_run(requests: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = requests
    server = ForkServer(theirs, no_run, grace_seconds=1)
    started = time.monotonic()
    timer = threading.Timer(0.3, ours.close)
    timer.start()
    server.serve()
    assert 0.3 <= time.monotonic() - started < 3
    timer.join()


def test_a_machine_without_room_for_a_process_is_told(
    requests: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fork() -> int:  # the limit on processes does not bind root
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr("os.fork", fork)
    ours, theirs = requests
    mine, childs = Pipe()
    with mine, childs:
        socket.send_fds(ours, [b"r"], [childs.fileno()])
        ours.close()
        ForkServer(theirs, no_run, grace_seconds=1).serve()
        answer = Channel(mine).receive(0.0)
    assert answer == {"event": "refused", "reason": "no process can be made (Resource temporarily unavailable)"}


def test_a_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Also where that process is killed; its run then writes a checkpoint, and the server waits for it."""
    program = (
        "import sys\nfrom jorge_tune.study.jobs.client import RunJob, RunLauncher\n"
        "server = RunLauncher(grace_seconds=5.0)\n"
        "child = server.start(RunJob(sys.argv[1], sys.argv[2], 'cpu', 1))\n"
        "print(server.server_pid, child.pid, flush=True)\nchild.poll(None)\n"
        "while child.poll(None) is None: pass"
    )
    command = [sys.executable, "-c", program, job(long_recipe(), tmp_path).recipe_text, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        pids = [int(word) for word in worker.stdout.readline().split()]
        assert all(map(is_alive, pids))
        wait_until(lambda: RunDirectory(tmp_path / "run").checkpoint.exists())
        worker.kill()
    wait_until(lambda: not any(map(is_alive, pids)))
    assert outcome_of(read_records(RunDirectory(tmp_path / "run").records)) == "interrupted"


def memory_group(limit_bytes: int) -> Path:
    """A control group below this process's own, with a limit."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    paths = {controllers: path.lstrip("/") for _, controllers, path in lines}
    root, limit = ("memory", "memory.limit_in_bytes") if "memory" in paths else ("", "memory.max")
    group = Path("/sys/fs/cgroup") / root / paths[root] / f"jorge-tune-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"{group}: no control group can be made here ({error.strerror})")
    try:
        (group / limit).write_text(str(limit_bytes))
    except OSError as error:
        group.rmdir()
        pytest.skip(f"{group}: memory cannot be limited here ({error.strerror})")
    return group


_IN_A_GROUP = """
import os, sys
from pathlib import Path
Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
from jorge_tune.study.jobs.client import RunJob, RunLauncher
server = RunLauncher(grace_seconds=1)
for recipe, out in zip(sys.argv[2::2], sys.argv[3::2]):
    child = server.start(RunJob(recipe, out, "cpu", 1))
    while (ended := child.poll(None)) is None: pass
    print(ended.outcome, ended.out_of_memory, ended.reason, sep="|")
server.close()
"""


@pytest.mark.slow
def test_a_kill_for_memory_is_told_from_other_kills(tmp_path: Path) -> None:
    group = memory_group(3 << 29)
    try:
        runs = [(act, str(tmp_path / str(number))) for number, act in enumerate(["die", "take memory", "die"])]
        arguments = [text for act, out in runs for text in (job(odd(act), tmp_path).recipe_text, out)]
        told = subprocess.run(
            [sys.executable, "-c", _IN_A_GROUP, str(group), *arguments], capture_output=True, text=True, check=True
        )
        assert told.stdout.splitlines() == [
            "killed|False|killed by SIGKILL",
            "killed|True|killed by SIGKILL out of memory",
            "killed|False|killed by SIGKILL",
        ]
        assert outcome_of(read_records(RunDirectory(tmp_path / "1").records)) is None
        wait_until(lambda: not (group / "cgroup.procs").read_text().split())
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        wait_until(lambda: not (group / "cgroup.procs").read_text().split())
        group.rmdir()
