"""Finding this machine's run server, or starting it: a socket in a private folder, a lock beside it. No torch here."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import jorge_tune
from jorge_tune.errors import InputError, JorgeTuneError

_LONGEST_ADDRESS = 103  # bytes of a Unix socket's path on macOS; Linux has 107
_LAST_RESORT = "/tmp"  # where the temp folder's path is too long
_BACKLOG = 128
_LOCK_SECONDS = 30.0
_SECRETS = ("JORGE_TUNE_STORAGE", "OPTUNA_STORAGE", "PGPASSWORD", "PGPASSFILE", "MYSQL_PWD")
_READ_AT_LOAD = (  # by torch and the libraries under it; what is read later travels with each job
    *("ATEN_", "BLIS_", "CONDA_PREFIX", "CUBLAS_", "CUDA_", "DNNL_", "DYLD_", "GLIBC_", "GOMP_", "KMP_", "LANG", "LC_"),
    *("LD_", "MALLOC_", "MKL_", "NCCL_", "NUMEXPR_", "NVIDIA_", "OMP_", "ONEDNN_", "OPENBLAS_", "PYTHON", "PYTORCH"),
    *("TBB_", "TORCH", "VECLIB_", "VIRTUAL_ENV"),
)
_SET_BY_LIBRARIES = ("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "TORCHINDUCTOR_CACHE_DIR")  # by their own import
_DETACHED = "import os\nif os.fork(): os._exit(0)\nfrom jorge_tune.training.run_server import main\nmain()"


@dataclass(frozen=True)
class Place:
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


def find_place(idle_seconds: float, grace_seconds: float) -> Place:
    """The place of the server that a process like this one may use.

    Raises:
        InputError: no folder for the socket is private and has a short enough path, or the system cannot fork.
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
            return Place(path, idle_seconds, grace_seconds)
        tried.append(f"{path.parent}: {complaint}")
    raise InputError("no folder for the run server's socket: " + "; ".join(dict.fromkeys(tried)) + "; set TMPDIR")


def knock(place: Place) -> socket.socket | None:
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


def start_if_missing(place: Place) -> None:
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


def last_words(place: Place) -> str:
    """The last line of the server's log, or nothing."""
    try:
        lines = place.log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""


def _launch(place: Place, listener: socket.socket) -> None:
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
    """Make the folder; what is wrong with it, if anything."""
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISDIR(status.st_mode):
        return "is no folder"
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
