"""Writing files as a whole, reading files that other users may have written, and kernel locks.

write  `write_whole` replaces a file in one move, so a reader never sees a part of it
read   `open_regular` and `read_regular_bytes` open only regular files and follow no link
lock   `take` locks an open file for the life of a process; `keep_from_children` keeps the lock from forked processes
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from jorge_tune.errors import InputError


def write_whole(path: Path, content: str | bytes, *, force: bool = False, make_folders: bool = False) -> None:
    """Write a temporary file next to the target, and move it into place once it is on the disk.

    If the path is a link, the file that it points to is replaced.

    Args:
        path: The file to write.
        content: Text (written as UTF-8) or bytes.
        force: Whether to replace an existing file.
        make_folders: Whether to create the directories above the file.

    Raises:
        InputError: The file exists and `force` is not set, is a directory or a device, or cannot be written.
    """
    try:
        target = path.resolve()
        if target.is_dir():
            raise InputError(f"{path}: is a directory; give a file name")
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
    """Open a file that other users may have written: only a regular file, and never through a link.

    A link could show a file in another place, a pipe could block for ever, and opening a device may make it act.

    Args:
        path: The file to open.
        flags: The flags of `os.open`; other programs do not inherit the descriptor.
        below: A trusted directory, which may be a link itself; no directory between it and the file may be a link.
            None: the file's own directory.
        error: The class of the error to raise.
        mode: The mode of a new file, with `os.O_CREAT`.

    Raises:
        InputError: (or `error`) The file is a link, is not a regular file, or cannot be opened.
        FileNotFoundError: The file does not exist.
        OSError: The disk is full, so the file cannot be created.
    """
    try:
        descriptor = _open_below(path.parent if below is None else below, path, flags | _SAFELY, mode)
        kind = _kind(os.fstat(descriptor).st_mode)  # another process may have replaced it
        if kind is not None:
            os.close(descriptor)
            raise _IrregularError(kind)
    except FileNotFoundError:
        raise
    except _IrregularError as fault:
        raise error(f"{path}: must be a regular file, got {fault.kind}; replace it by the file itself") from None
    except (OSError, ValueError) as fault:  # ValueError: a NUL character in the name
        if isinstance(fault, OSError) and is_disk_full(fault):
            raise  # the file is not the cause
        reason = fault.strerror if isinstance(fault, OSError) else str(fault)
        raise error(f"{path}: cannot be opened ({reason})") from fault
    return descriptor


def read_regular_bytes(
    path: Path, *, most: int | None = None, below: Path | None = None, error: type[InputError] = InputError
) -> bytes:
    """Read a file that other users may have written.

    Args:
        path: The file to read.
        most: The maximum number of bytes; None: no limit.
        below: As for `open_regular`.
        error: The class of the error to raise.

    Raises:
        InputError: (or `error`) The file is a link, is not a regular file, cannot be read, or is larger than `most`.
        FileNotFoundError: The file does not exist.
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
    """Lock (or, with `release`, unlock) an open file without waiting; closing the file also unlocks it.

    Returns:
        False if another process has the lock. True otherwise, also if the system or the file system has no locks.
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
    """Close an open file in forked processes, so that its lock ends with its holder.

    `flock` frees a lock when the last copy of its descriptor is closed, and fork makes copies. Without this, a loader
    process that still waits for data after its parent was killed would keep the run directory locked.
    """
    _kept.add(descriptor)


def let_children_have(descriptor: int) -> None:
    """Forget a descriptor before it is closed, because another file will get its number."""
    _kept.discard(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process has locked a file; the test shares the lock for a moment. A missing file is not locked."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not take(descriptor, shared=True)
    finally:
        os.close(descriptor)


def boot() -> str:
    """The random name of this boot of the kernel; empty if the kernel has none."""
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
    """A link or another special file stands where a file or a directory should be."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


def _kind(mode: int) -> str | None:
    """The kind of a special file in words; None for a regular file."""
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "something else")


def _open_below(directory: Path, path: Path, flags: int, mode: int) -> int:
    """Open a file through the directories above it, none of which may be a link.

    Raises:
        _IrregularError: A directory is a link, or the file is not a regular file; neither was opened.
        OSError: The file cannot be opened.
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
    """Refuse a special file before it is opened, because opening a device may make it act; accept a missing file."""
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
