"""A small process between a run and its command, so that nothing of the command outlives the run.

The run starts it by its file, without the package. It starts the command in a session of its own and waits. It takes
orders on one pipe, a byte each: `t` asks the command to end (SIGTERM), `k` ends everything at once. The end of that
pipe says that the run is gone: everything ends at once, before anybody else may start the same run. It answers on
another pipe with one line, and leaves last.

On Linux it becomes the parent of whatever the command leaves behind (`PR_SET_CHILD_SUBREAPER`), also of processes in
sessions of their own, as torchrun makes them. Elsewhere the command's process group is what can be ended.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)
LEAVE_SECONDS = 2.0  # that what the command left behind has to end by itself
GIVE_UP_SECONDS = 5.0  # after which a process that the kernel does not let go is left alone
POLL_SECONDS = 0.05


def main(orders: int, answers: int, lock: int, command: list[str]) -> None:
    """Run the command and end with it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)  # the run decides
    for descriptor in (orders, answers, lock):
        if descriptor >= 0:
            os.set_inheritable(descriptor, False)
    become_parent_of_orphans()
    wake, waker = os.pipe()
    for end in (wake, waker):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)

    pid = start(command, answers)
    if pid is None:
        return
    os.write(answers, b"started %d\n" % pid)
    status = wait(pid, orders, wake)
    sweep(pid, at_once=status is None)
    if status is None:
        status = os.waitpid(pid, 0)[1]
    how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
    with contextlib.suppress(OSError):
        os.write(answers, f"{how}\n".encode())


def start(command: list[str], answers: int) -> int | None:
    """Start the command in a session of its own; its number, or None where it cannot be started, which is said."""
    failed, tells = os.pipe()  # closed by a successful exec
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            os.execvp(command[0], command)
        except OSError as error:
            os.write(tells, str(error.errno).encode())
        finally:
            os._exit(127)
    os.close(tells)
    fault = os.read(failed, 16)
    os.close(failed)
    if not fault:
        return pid
    os.waitpid(pid, 0)
    os.write(answers, b"missing " + fault + b"\n")
    return None


def wait(pid: int, orders: int, wake: int) -> int | None:
    """Until the command has ended, and then its status; None where everything is to end at once."""
    poll = select.poll()
    poll.register(orders, select.POLLIN)
    poll.register(wake, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == wake:
                drain(wake)
                continue
            order = os.read(orders, 1)
            if order != b"t":
                return None
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGTERM)
        while (ended := ended_child()) is not None:
            if ended[0] == pid:
                return ended[1]


def sweep(pid: int, at_once: bool) -> None:
    """End what is left of the command: first by SIGTERM, then by SIGKILL."""
    kill_at = time.monotonic() + (0 if at_once else LEAVE_SECONDS)
    number = signal.SIGTERM
    while time.monotonic() < kill_at + GIVE_UP_SECONDS:
        if time.monotonic() >= kill_at:
            number = signal.SIGKILL
        with contextlib.suppress(OSError):
            os.killpg(pid, number)
        left = others()
        for other in left:
            with contextlib.suppress(OSError):
                os.kill(other, number)
        if not left:
            return
        time.sleep(POLL_SECONDS)


def others() -> list[int]:
    """The living descendants of this process; none where the system does not list them."""
    parents: dict[int, int] = {}
    try:
        numbers = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return []
    for number in numbers:
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open(f"/proc/{number}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            if fields[0] not in (b"Z", b"X"):
                parents[number] = int(fields[1])
    found: set[int] = set()
    last = {os.getpid()}
    while last:
        last = {number for number, parent in parents.items() if parent in last} - found
        found |= last
    return sorted(found)


def ended_child() -> tuple[int, int] | None:
    """Number and status of a child that has ended; None where there is none."""
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, status) if pid else None


def drain(descriptor: int) -> None:
    """Empty a pipe."""
    with contextlib.suppress(BlockingIOError):
        while os.read(descriptor, 4096):
            pass


def become_parent_of_orphans() -> None:
    """Let this process, and not init, get the processes that lose their parents."""
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
