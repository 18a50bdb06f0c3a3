"""Runs as child processes: a client of the machine's run server, for a worker that has no torch.

One connection belongs to one run; each message is one line of JSON.

to the run      {recipe, out, device, threads, download, directory, path, environment, lease}, once; lease: [until,
                grace] by the machine's clock, or null
                {stop: reason}
                {lease: [seconds, grace]}      without a newer one it ends by itself after that time
from the run    {event: started, pid}
                {event: evaluation, step}      a record of it is in the run directory
                {event: end, outcome, reason, out_of_memory, input_error}
from the server {event: exit, code, signal, out_of_memory}   the process is gone, its lock and memory with it

The connection's end tells both sides what no message could: a run whose worker is gone writes a checkpoint and ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jorge_tune
from jorge_tune.errors import InputError, JorgeTuneError

_ATTEMPTS = 3
_START_SECONDS = 180.0  # torch read over a slow network for the first time
_CHUNK_BYTES = 1 << 16
_TAIL_LINES, _LINE_LENGTH = 3, 160

ChildOutcome = Literal["finished", "diverged", "interrupted", "failed", "killed"]


@dataclass(frozen=True)
class RunJob:
    """One run for a child process.

    Args:
        recipe_text: the recipe, seed included.
        out: the run directory; what it holds of this run is continued.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        threads: CPU threads; None leaves it to torch.
        download: fetch a data set of torchvision that is not there.
        lease: until when, by `hardware.machine_clock`, it may go on without hearing of its worker, and how many
            seconds it then has to end by itself; None: as long as its worker lives.
    """

    recipe_text: str
    out: str
    device: str = "auto"
    threads: int | None = None
    download: bool = False
    lease: tuple[float, float] | None = None


@dataclass(frozen=True)
class ProcessEnd:
    """How a run's process ended.

    Args:
        outcome: a run's own, or `killed`: the process died without a word.
        reason: one sentence; empty for a finished run.
        out_of_memory: memory was what it died of, the GPU's or (by the kernel's count of such kills) the machine's.
        input_error: the recipe, its data or its directory cannot be used; another attempt would fail in the same way.
    """

    outcome: ChildOutcome
    reason: str
    out_of_memory: bool = False
    input_error: bool = False


class RunLauncher:
    """The server on this machine that starts runs for processes like this one; made by `connect`."""

    def __init__(self, place: ServerPlace) -> None:
        self._place = place

    @classmethod
    def connect(cls, *, idle_seconds: float = 60.0, grace_seconds: float = 10.0) -> RunLauncher:
        """Find the server or start it, without waiting for torch to be loaded.

        Raises:
            InputError: this machine cannot have one.
            JorgeTuneError: it cannot be started.
        """
        place = find_place(idle_seconds, grace_seconds)
        start_if_missing(place)
        return cls(place)

    def start(self, job: RunJob) -> Child:
        """Start a run, in this process's directory and environment; a server that died is replaced.

        Raises:
            JorgeTuneError: the server cannot be started or does not answer.
        """
        folder = Path(job.out).absolute()
        line = {
            "recipe": job.recipe_text,
            "out": str(folder),
            "device": job.device,
            "threads": job.threads,
            "download": job.download,
            "directory": os.getcwd(),
            "path": sys.path,
            "environment": without_secrets(os.environ),
            "lease": job.lease,
        }
        message = json.dumps(line).encode() + b"\n"
        deadline = time.monotonic() + _START_SECONDS
        for _ in range(_ATTEMPTS):
            connection = knock(self._place)
            if connection is None:
                start_if_missing(self._place)
                connection = knock(self._place)
            child = connection and _begin(connection, message, folder, deadline)
            if child:
                return child
        words = last_words(self._place)
        raise JorgeTuneError("the run server ended before it started a run" + (f": {words}" if words else ""))


class Child:
    """One run in its process. Close it (or use it as a context manager) to leave early: the run then ends too.

    `stop` and `kill` may be called from any thread.
    """

    def __init__(self, connection: socket.socket, pid: int, folder: Path, received: bytes = b"") -> None:
        self.pid, self.folder = pid, folder
        self.evaluations = 0  # recorded so far, as told
        self._connection, self._received = connection, b""
        self._end: dict[str, Any] | None = None
        self._exit: dict[str, Any] | None = None
        self._ended: ProcessEnd | None = None
        self._closing = threading.Lock()
        self._process: int | None = None  # a descriptor, since the number may soon be another's
        with contextlib.suppress(OSError):  # it is gone already
            self._process = os.pidfd_open(pid)
        self._digest(received)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def fileno(self) -> int:
        """For select and poll: readable when `poll` has something to take in; -1 once it has told the end."""
        return self._connection.fileno()

    def poll(self, timeout: float | None = 0.0) -> ProcessEnd | None:
        """Take in what happened: how the run ended once its process is gone, else None.

        Args:
            timeout: seconds to wait for anything to happen (an evaluation, the end); None waits as long as it takes.
        """
        while self._ended is None and _readable(self._connection, timeout):
            before = self.evaluations
            self._take_in()
            if self.evaluations > before:
                break
        return self._ended

    def stop(self, reason: str) -> None:
        """Ask the run to finish its step, write a checkpoint and end as interrupted."""
        with contextlib.suppress(OSError):  # it is gone; `poll` tells
            self._connection.send(json.dumps({"stop": reason}).encode() + b"\n")

    def keep(self, seconds: float, grace: float) -> None:
        """Let it go on for so many seconds; without hearing this again it then writes a checkpoint and ends."""
        with contextlib.suppress(OSError):
            self._connection.send(json.dumps({"lease": [seconds, grace]}).encode() + b"\n")

    def kill(self) -> None:
        """End the process at once; `poll` tells when it is gone."""
        with self._closing, contextlib.suppress(ProcessLookupError):
            if self._process is not None:
                signal.pidfd_send_signal(self._process, signal.SIGKILL)

    def close(self) -> None:
        """Give up the connection: a run that still trains writes a checkpoint and ends."""
        with self._closing:
            self._connection.close()
            if self._process is not None:
                os.close(self._process)
                self._process = None

    def _take_in(self) -> None:
        try:
            chunk = self._connection.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return
        except ConnectionResetError:
            chunk = b""
        self._digest(chunk)
        if not chunk or self._exit is not None:
            self._ended = _ending(self._end, self._exit, self.folder)
            self.close()

    def _digest(self, chunk: bytes) -> None:
        *lines, self._received = (self._received + chunk).split(b"\n")
        for message in map(json.loads, lines):
            match message["event"]:
                case "evaluation":
                    self.evaluations += 1
                case "end":
                    self._end = message
                case "exit":
                    self._exit = message


def _begin(connection: socket.socket, message: bytes, folder: Path, deadline: float) -> Child | None:
    """The run, once its process says that it is there; None if the server left instead."""
    try:
        connection.sendall(message)
        received = b""
        while b"\n" not in received:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            chunk = connection.recv(_CHUNK_BYTES)
            if not chunk:
                connection.close()
                return None
            received += chunk
    except (BrokenPipeError, ConnectionResetError):
        connection.close()
        return None
    except TimeoutError as error:
        server = f"the run server (process {server_of(connection)})"
        connection.close()
        raise JorgeTuneError(f"{server} did not start a run in {_START_SECONDS:g} s; does it hang? End it") from error
    except BaseException:
        connection.close()
        raise
    line, _, rest = received.partition(b"\n")
    answer = json.loads(line)
    if answer["event"] == "started":
        connection.setblocking(False)
        return Child(connection, answer["pid"], folder, rest)
    connection.close()
    if answer["event"] == "refused":
        raise JorgeTuneError(f"the run server could not start a run: {answer['reason']}")
    return None  # killed in its first moment


def _readable(connection: socket.socket, timeout: float | None) -> bool:
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    return bool(poller.poll(None if timeout is None else 1000 * timeout))


def _ending(end: dict[str, Any] | None, gone: dict[str, Any] | None, folder: Path) -> ProcessEnd:
    """From what the run said last and what the server saw of its death."""
    if end is not None:
        return ProcessEnd(end["outcome"], end["reason"], end["out_of_memory"], end["input_error"])
    said = _last_output(folder)
    if gone is None:
        return ProcessEnd("killed", f"the run's process died, and its server before it{said}")
    if gone["signal"] is None:
        return ProcessEnd("failed", f"the run's process left with exit code {gone['code']}{said}")
    for_memory = " out of memory" if gone["out_of_memory"] else ""
    return ProcessEnd("killed", f"killed by {_signal_name(gone['signal'])}{for_memory}{said}", gone["out_of_memory"])


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # the real-time ones have no names
        return f"signal {number}"


def _last_output(folder: Path) -> str:
    """What the process printed last, for the end of a sentence; of a crash, what it was and where."""
    try:
        lines = (folder / "output.txt").read_text(errors="replace").split("\n")
    except OSError:
        return ""
    said = [line.strip()[:_LINE_LENGTH] for line in lines if line.strip()]
    crashes = [index for index, line in enumerate(said) if line.startswith("Fatal Python error")]
    if crashes:
        stack = [line for line in said[crashes[-1] :] if line.startswith(("Current thread", "File "))]
        current = [index for index, line in enumerate(stack) if line.startswith("Current thread")]
        said = [said[crashes[-1]], *(stack[current[0] + 1 : current[0] + 2] if current else [])]
    return "; it said: " + " | ".join(said[-_TAIL_LINES:]) if said else ""


_LONGEST_ADDRESS = 103  # bytes of a Unix socket's path on macOS; Linux has 107
_LAST_RESORT = "/tmp"  # where the temp directory's path is too long
_BACKLOG = 128
_LOCK_SECONDS = 30.0
_SECRETS = ("JORGE_TUNE_STORAGE", "OPTUNA_STORAGE", "PGPASSWORD", "PGPASSFILE", "MYSQL_PWD")
_READ_AT_LOAD = (  # by torch and the libraries under it; what is read later travels with each job
    *("ATEN_", "BLIS_", "CONDA_PREFIX", "CUBLAS_", "CUDA_", "DNNL_", "DYLD_", "GLIBC_", "GOMP_", "KMP_", "LANG", "LC_"),
    *("LD_", "MALLOC_", "MKL_", "NCCL_", "NUMEXPR_", "NVIDIA_", "OMP_", "ONEDNN_", "OPENBLAS_", "PYTHON", "PYTORCH"),
    *("TBB_", "TORCH", "VECLIB_", "VIRTUAL_ENV"),
)
_SET_BY_LIBRARIES = ("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "TORCHINDUCTOR_CACHE_DIR")  # by their own import
_DETACHED = "import os\nif os.fork(): os._exit(0)\nfrom jorge_tune.study.jobs.fork_server import main\nmain()"


@dataclass(frozen=True)
class ServerPlace:
    """Where a server listens, and how patient it is.

    Args:
        socket: the Unix socket; a lock and a log lie beside it.
        idle_seconds: the server leaves after that long without a client.
        grace_seconds: a run whose worker is gone is ended hard after that long.
    """

    socket: Path
    idle_seconds: float
    grace_seconds: float

    @property
    def lock(self) -> Path:
        """Held by whoever starts or ends the server."""
        return self.socket.with_suffix(".lock")

    @property
    def log(self) -> Path:
        """What the server says; its last words where it fails."""
        return self.socket.with_suffix(".log")


def find_place(idle_seconds: float, grace_seconds: float) -> ServerPlace:
    """The place of the server that a process like this one may use.

    Raises:
        InputError: no directory for the socket is private and has a short enough path, or the system cannot fork.
    """
    if not sys.platform.startswith("linux"):
        raise InputError(f"studies fork their runs from a server, which needs Linux, not {sys.platform}; WSL has it")
    key = hashlib.sha256(json.dumps([_what_a_run_inherits(), idle_seconds, grace_seconds]).encode())
    name = f"{key.hexdigest()[:16]}.sock"
    own = f"jorge-tune-{os.getuid()}"
    tried: list[str] = []
    for parent in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), _LAST_RESORT):
        if not parent or not os.path.isabs(parent):
            continue
        path = Path(parent) / own / name
        complaint = (
            "its path is too long for a socket"
            if len(os.fsencode(path)) > _LONGEST_ADDRESS
            else _make_private(path.parent)
        )
        if complaint is None:
            return ServerPlace(path, idle_seconds, grace_seconds)
        tried.append(f"{path.parent}: {complaint}")
    raise InputError("no directory for the run server's socket: " + "; ".join(dict.fromkeys(tried)) + "; set TMPDIR")


def knock(place: ServerPlace) -> socket.socket | None:
    """A connection to the server, or None where none listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(place.socket))
    except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError):
        connection.close()
        return None
    except BaseException:
        connection.close()
        raise
    return connection


def server_of(connection: socket.socket) -> int:
    """The process number of the server at the other end."""
    pid: int = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return pid


def start_if_missing(place: ServerPlace) -> None:
    """Start the server unless one listens; it takes connections at once and serves them when torch is loaded.

    Raises:
        JorgeTuneError: it cannot be started, or another process holds the lock for too long.
    """
    with _locked(place.lock):
        present = knock(place)
        if present is not None:
            present.close()
            return
        with contextlib.suppress(FileNotFoundError):
            place.socket.unlink()  # of a server that died
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            try:
                listener.bind(str(place.socket))
                listener.listen(_BACKLOG)
                _launch(place, listener)
            except OSError as error:
                raise JorgeTuneError(f"{place.socket}: the run server cannot be started ({error.strerror})") from error


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for processes that need no database."""
    return {name: value for name, value in environment.items() if name not in _SECRETS}


def last_words(place: ServerPlace) -> str:
    """The last line of the server's log, or nothing."""
    try:
        lines = place.log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""


def _launch(place: ServerPlace, listener: socket.socket) -> None:
    """A process of its own session that nobody has to wait for."""
    environment = environment_for_torch() | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    settings = {
        "listener": listener.fileno(),
        "socket": str(place.socket),
        "lock": str(place.lock),
        "log": str(place.log),
        "idle_seconds": place.idle_seconds,
        "grace_seconds": place.grace_seconds,
    }
    log = os.open(place.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_APPEND, 0o600)
    try:
        subprocess.run(
            [sys.executable, "-P", "-c", _DETACHED, json.dumps(settings)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=environment,
            pass_fds=(listener.fileno(),),
            start_new_session=True,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise JorgeTuneError(f"the run server cannot be started: {last_words(place) or error}") from error
    finally:
        os.close(log)


def environment_for_torch() -> dict[str, str]:
    """This process's without its secrets; OpenMP's idle threads sleep unless somebody said otherwise."""
    return {"OMP_WAIT_POLICY": "PASSIVE"} | without_secrets(os.environ)


def _what_a_run_inherits() -> list[object]:
    """Whatever a forked run takes from its server and no job can change: other values, another server."""
    environment = environment_for_torch()
    chosen = {
        name: environment[name]
        for name in sorted(environment)
        if name.startswith(_READ_AT_LOAD) and not name.endswith(("_VISIBLE_DEVICES", *_SET_BY_LIBRARIES))
    }
    package = Path(jorge_tune.__file__).parent
    sources = [(str(path), _stamp(path)) for path in sorted(package.rglob("*.py"))]
    found = [importlib.util.find_spec(name) for name in ("torch", "torchvision")]
    libraries = [(spec.origin, _stamp(Path(spec.origin))) for spec in found if spec is not None and spec.origin]
    kernel = [_content("/proc/sys/kernel/random/boot_id"), _content("/proc/self/cgroup"), _content("/proc/self/limits")]
    kernel += [
        line for line in _content("/proc/self/status").splitlines() if line.startswith(("Umask", "Cpus_allowed"))
    ]
    with contextlib.suppress(OSError):
        kernel += [os.readlink(f"/proc/self/ns/{name}") for name in ("cgroup", "mnt", "net", "pid", "user")]
    return [
        jorge_tune.__version__,
        [sys.executable, sys.prefix, sys.version],
        [os.getuid(), os.getgid(), os.getpriority(os.PRIO_PROCESS, 0)],
        [sources, libraries],
        chosen,
        kernel,
    ]


def _stamp(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_mtime_ns, status.st_size]


def _content(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _make_private(folder: Path) -> str | None:
    """Make the directory; what is wrong with it, if anything."""
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISDIR(status.st_mode):
        return "is not a directory"
    if status.st_uid != os.getuid():
        return "belongs to somebody else"
    if status.st_mode & 0o077:
        return "is open to others (chmod 700 it)"
    return None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file that its holder may remove."""
    import fcntl

    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                break
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise JorgeTuneError(f"{path}: held by another process for {_LOCK_SECONDS:g} s; is it hanging?")
        time.sleep(0.02)
    try:
        yield
    finally:
        os.close(descriptor)
