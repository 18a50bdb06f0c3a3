"""Files that appear whole or not at all, and files that are read only where they are nothing but files."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from jorge_tune.errors import InputError


def is_disk_full(error: OSError) -> bool:
    """Whether it is room that was missing: on the disk, or in a quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def write_whole(path: Path, content: str | bytes, *, force: bool = False, make_folders: bool = False) -> None:
    """Write beside the file and move it into place when it is on the disk.

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

    A link would show what lies elsewhere, a pipe would be waited for without end, and a device does who knows what.

    Args:
        path: The file.
        flags: As `os.open` takes them; the descriptor is not passed on to other programs.
        below: A directory that is trusted, itself perhaps a link; no directory between it and the file may be
            one. None: the file's own directory.
        error: What to raise.
        mode: Of a file that is made, by `os.O_CREAT`.

    Raises:
        InputError: (or `error`) it is a link or no regular file, or cannot be opened.
        FileNotFoundError: there is none.
        OSError: the disk is full, so that it cannot be made.
    """
    try:
        descriptor = _open_below(path.parent if below is None else below, path, flags | _SAFELY, mode)
        kind = _kind(os.fstat(descriptor).st_mode)  # it may have been changed for another meanwhile
        if kind is not None:
            os.close(descriptor)
            raise _IrregularError(kind)
    except FileNotFoundError:
        raise
    except _IrregularError as fault:
        raise error(f"{path}: must be a regular file, got {fault.kind}; put the file itself there") from None
    except (OSError, ValueError) as fault:  # ValueError: a NUL character in the name
        if isinstance(fault, OSError) and is_disk_full(fault):
            raise  # no fault of the file's
        reason = fault.strerror if isinstance(fault, OSError) else str(fault)
        raise error(f"{path}: cannot be opened ({reason})") from fault
    return descriptor


def read_regular_bytes(
    path: Path, *, most: int | None = None, below: Path | None = None, error: type[InputError] = InputError
) -> bytes:
    """The content of a file that others may have put there.

    Args:
        path: The file.
        most: Bytes that it may have; None: as many as it has.
        below: As for `open_regular`.
        error: What to raise.

    Raises:
        InputError: (or `error`) it is a link or no regular file, cannot be read, or is larger than `most`.
        FileNotFoundError: there is none.
    """
    with os.fdopen(open_regular(path, below=below, error=error), "rb") as file:
        try:
            content = file.read() if most is None else file.read(most + 1)
        except OSError as fault:
            raise error(f"{path}: cannot be read ({fault.strerror})") from fault
    if most is not None and len(content) > most:
        raise error(f"{path}: must have at most {most} bytes, and has more")
    return content


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
    """What it is in words, where it is not a regular file."""
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "something else")


def _open_below(folder: Path, path: Path, flags: int, mode: int) -> int:
    """Open a file by way of the directories above it, none of which may be a link.

    Raises:
        _IrregularError: there is a link on the way, or no regular file at its end; nothing of it was opened.
        OSError: it cannot be opened.
    """
    *folders, name = path.relative_to(folder).parts
    if os.open not in os.supports_dir_fd:
        for count in range(1, len(folders) + 1):
            _refuse_link(folder.joinpath(*folders[:count]))
        _refuse_irregular(path)
        return os.open(path, flags, mode)

    way = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
    here = os.open(folder, way)
    try:
        for part in folders:
            _refuse_link(part, here)
            below = os.open(part, way | os.O_NOFOLLOW, dir_fd=here)
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
    """Before it is opened, which alone makes a device do something; that there is nothing is for the opening to say."""
    with contextlib.suppress(FileNotFoundError):
        kind = _kind(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode)
        if kind is not None:
            raise _IrregularError(kind)


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


def boot() -> str:
    """The running kernel's own random name; nothing where it has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def take(descriptor: int, *, shared: bool = False, release: bool = False) -> bool:
    """Take (or let go of) an open file until it is closed, without waiting.

    False where somebody else has it; True too where the system or the file system knows no locks.
    """
    try:
        import fcntl
    except ImportError:
        return True
    wish = fcntl.LOCK_UN if release else fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, wish | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


_kept: set[int] = set()


def keep_from_children(descriptor: int) -> None:
    """Let no forked process inherit an open file, and with it a lock that would outlive its holder's death.

    A lock of `flock` is free when the last copy of its descriptor is closed, and fork makes copies: a loader process
    that is still waiting for data when its parent is killed would hold the directory for as long as it waits.
    """
    _kept.add(descriptor)


def let_children_have(descriptor: int) -> None:
    """Forget a descriptor that is about to be closed, since its number will be another file's."""
    _kept.discard(descriptor)


def _close_in_child() -> None:
    for descriptor in _kept:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _kept.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def is_held(path: Path) -> bool:
    """Whether somebody holds a file alone; asked by sharing it for a moment. A file that is not there is not held."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not take(descriptor, shared=True)
    finally:
        os.close(descriptor)
