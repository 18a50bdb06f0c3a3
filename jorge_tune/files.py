"""Files that appear whole or not at all, files that others may have put there, and kernel locks.

write  `write_whole` replaces a file in one move
read   `open_regular` and `read_regular_bytes` open nothing but regular files, and follow no link
lock   `take` locks an open file while a process lives; `keep_from_children` keeps the lock from forked processes
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from jorge_tune.errors import InputError


def write_whole(path: Path, content: str | bytes, *, force: bool = False, make_folders: bool = False) -> None:
    """Write to a file next to it, and move that into place once it is on the disk.

    A link is followed: what it points to is replaced.

    Args:
        path: The file.
        content: Text is written as UTF-8.
        force: Replace an existing file.
        make_folders: Make the directories above it.

    Raises:
        InputError: it exists (without `force`), is a directory or a device, or cannot be written.
    """
    try:
        target = path.resolve()
        if target.is_dir():
            raise InputError(f"{path}: is a directory; a file name is expected")
        if target.exists() and not target.is_file():
            raise InputError(f"{path}: is not a regular file; give another name")
        if target.exists() and not force:
            raise InputError(f"{path}: exists already; give another name, or --force to overwrite it")
        if make_folders:
            target.parent.mkdir(parents=True, exist_ok=True)
        _replace(target, content.encode() if isinstance(content, str) else content)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{path}: cannot be written ({reason})") from error


def open_regular(
    path: Path,
    flags: int = os.O_RDONLY,
    *,
    below: Path | None = None,
    error: type[InputError] = InputError,
    mode: int = 0o644,
) -> int:
    """Open a file that others may have put there: never through a link, and never anything but a regular file.

    A link would show what lies elsewhere, a pipe would block for ever, and opening a device may make it act.

    Args:
        path: The file.
        flags: As `os.open` takes them; the descriptor is not passed on to other programs.
        below: A trusted directory, which may be a link itself; no directory between it and the file may be a link.
            None: the file's own directory.
        error: What to raise.
        mode: The mode of a new file, with `os.O_CREAT`.

    Raises:
        InputError: (or `error`) it is a link or not a regular file, or cannot be opened.
        FileNotFoundError: there is none.
        OSError: the disk is full, so the file cannot be made.
    """
    try:
        descriptor = _open_below(path.parent if below is None else below, path, flags | _SAFELY, mode)
        kind = _kind(os.fstat(descriptor).st_mode)  # it may have been replaced meanwhile
        if kind is not None:
            os.close(descriptor)
            raise _IrregularError(kind)
    except FileNotFoundError:
        raise
    except _IrregularError as fault:
        raise error(f"{path}: must be a regular file, got {fault.kind}; put the file itself there") from None
    except (OSError, ValueError) as fault:  # ValueError: a NUL character in the name
        if isinstance(fault, OSError) and is_disk_full(fault):
            raise  # not the file's fault
        reason = fault.strerror if isinstance(fault, OSError) else str(fault)
        raise error(f"{path}: cannot be opened ({reason})") from fault
    return descriptor


def read_regular_bytes(
    path: Path, *, most: int | None = None, below: Path | None = None, error: type[InputError] = InputError
) -> bytes:
    """The content of a file that others may have put there.

    Args:
        path: The file.
        most: The most bytes that it may have; None: no limit.
        below: As for `open_regular`.
        error: What to raise.

    Raises:
        InputError: (or `error`) it is a link or not a regular file, cannot be read, or is larger than `most`.
        FileNotFoundError: there is none.
    """
    with os.fdopen(open_regular(path, below=below, error=error), "rb") as file:
        try:
            content = file.read() if most is None else file.read(most + 1)
        except OSError as fault:
            raise error(f"{path}: cannot be read ({fault.strerror})") from fault
    if most is not None and len(content) > most:
        raise error(f"{path}: must have at most {most} bytes, got more")
    return content


def is_disk_full(error: OSError) -> bool:
    """Whether the disk, or the user's quota on it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def take(descriptor: int, *, shared: bool = False, release: bool = False) -> bool:
    """Take (or let go of) an open file until it is closed, without waiting.

    False where somebody else has it; True too where the system or the file system knows no locks.
    """
    try:
        import fcntl
    except ImportError:
        return True

    operation = fcntl.LOCK_UN if release else fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def keep_from_children(descriptor: int) -> None:
    """Let no forked process inherit an open file, and with it a lock that would outlive its holder's death.

    `flock` frees a lock when the last copy of its descriptor is closed, and fork makes copies. So a loader process that
    still waits for data when its parent is killed would keep the run directory locked.
    """
    _kept.add(descriptor)


def let_children_have(descriptor: int) -> None:
    """Forget a descriptor that is about to be closed, since its number will be another file's."""
    _kept.discard(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process has locked a file for itself; asked by sharing it for a moment. A missing file is not held."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not take(descriptor, shared=True)
    finally:
        os.close(descriptor)


def boot() -> str:
    """The running kernel's own random name; nothing where it has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _replace(target: Path, content: bytes) -> None:
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


_SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class _IrregularError(Exception):
    """What was found in a file's place, or in that of a directory on the way to it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


def _kind(mode: int) -> str | None:
    """In words what it is; None for a regular file."""
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "something else")


def _open_below(directory: Path, path: Path, flags: int, mode: int) -> int:
    """Open a file by way of the directories above it, none of which may be a link.

    Raises:
        _IrregularError: there is a link on the way, or no regular file at its end; nothing of it was opened.
        OSError: it cannot be opened.
    """
    *parents, name = path.relative_to(directory).parts
    if os.open not in os.supports_dir_fd:
        for count in range(1, len(parents) + 1):
            _refuse_link(directory.joinpath(*parents[:count]))
        _refuse_irregular(path)
        return os.open(path, flags, mode)

    to_directory = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
    here = os.open(directory, to_directory)
    try:
        for part in parents:
            _refuse_link(part, here)
            below = os.open(part, to_directory | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = below
        _refuse_irregular(name, here)
        return os.open(name, flags, mode, dir_fd=here)
    finally:
        os.close(here)


def _refuse_link(name: str | Path, here: int | None = None) -> None:
    if stat.S_ISLNK(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode):
        raise _IrregularError("a symbolic link")


def _refuse_irregular(name: str | Path, here: int | None = None) -> None:
    """Refuse it before it is opened, since opening alone makes a device act. A missing file is left to the opening."""
    with contextlib.suppress(FileNotFoundError):
        kind = _kind(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode)
        if kind is not None:
            raise _IrregularError(kind)


_kept: set[int] = set()


def _close_in_child() -> None:
    for descriptor in _kept:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _kept.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
