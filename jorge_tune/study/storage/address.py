"""Where studies are stored: an address as the user writes it, checked, and printable without its password.

| written as | kind |
|---|---|
| `sqlite:///PATH`, or a path that ends in `.db`, `.sqlite`, `.sqlite3` | an SQLite file, for one machine |
| `postgresql://USER:PASSWORD@HOST/DATABASE` (or `postgres://`) | PostgreSQL, through psycopg 3 |
| `mysql://...`, `mariadb://...` | MySQL or MariaDB, through PyMySQL |
| `journal:///PATH`, or a path that ends in `.journal`, `.log` | a journal file, for a disk that machines share |

`sqlite:///` and `journal:///` are followed by the path itself, so an absolute one has four slashes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, quote, quote_plus, unquote, urlsplit

from jorge_tune.errors import InputError

Kind = Literal["sqlite", "postgresql", "mysql", "journal"]

DEFAULT = "sqlite:///studies/jorge-tune.db"
OPTION, VARIABLES = "--storage", ("JORGE_TUNE_STORAGE", "OPTUNA_STORAGE")
_FILE_ENDINGS: dict[str, Kind] = {
    ".db": "sqlite",
    ".sqlite": "sqlite",
    ".sqlite3": "sqlite",
    ".journal": "journal",
    ".log": "journal",
}
_SERVERS: dict[str, tuple[Kind, str]] = {  # the scheme as written: its kind, and what SQLAlchemy is to read
    "postgresql": ("postgresql", "postgresql+psycopg"),
    "postgres": ("postgresql", "postgresql+psycopg"),
    "mysql": ("mysql", "mysql+pymysql"),
    "mariadb": ("mysql", "mysql+pymysql"),  # Optuna asks whether the dialect is called "mysql"
}
_FORMS = (
    "sqlite:///PATH, postgresql://USER:PASSWORD@HOST/DATABASE, mysql://USER:PASSWORD@HOST/DATABASE or journal:///PATH"
)


@dataclass(frozen=True)
class Address:
    """Where studies are stored; `str` and `repr` never hold a password."""

    kind: Kind
    url: str = field(repr=False)
    """What SQLAlchemy reads (or `journal:///PATH`), password included; file paths are absolute."""
    path: Path | None
    """The file, of SQLite and of a journal."""
    shown: str
    """The address as it may be printed."""

    def __str__(self) -> str:
        return self.shown

    def for_environment(self) -> dict[str, str]:
        """The variable that hands the address to a child process: never an argument, which `ps` shows, never a file."""
        return {VARIABLES[0]: self.url}

    def secrets(self) -> tuple[str, ...]:
        """What must not be printed: the password, as it is and as the URL writes it, longest first."""
        if self.path is not None:
            return ()
        parts = urlsplit(self.url)
        written = [parts.password or ""]
        written += [pair.partition("=")[2] for pair in parts.query.split("&") if _is_secret(pair)]
        plain = [unquote(secret) for secret in written]
        quoted = [form for secret in plain for form in (quote(secret), quote(secret, safe=""), quote_plus(secret))]
        return tuple(sorted({*written, *plain, *quoted} - {""}, key=len, reverse=True))

    def scrub(self, text: str) -> str:
        """`text`, which another program wrote, without the URL and its secrets."""
        for secret in (self.url, *self.secrets()):
            text = text.replace(secret, "***")
        return text


def find_address(option: str | None, environment: Mapping[str, str] = os.environ) -> Address:
    """The storage to use: `--storage`, else JORGE_TUNE_STORAGE, else OPTUNA_STORAGE, else the default SQLite file.

    Args:
        option: the value of `--storage`; None if it was not given.
        environment: the variables of the process.

    Raises:
        InputError: what was given is no address; the message says where it was given and never its password.
    """
    if option is not None:
        return parse_address(option, OPTION)
    for variable in VARIABLES:
        if environment.get(variable):
            return parse_address(environment[variable], variable)
    return parse_address(DEFAULT, OPTION)


def parse_address(text: str, given_by: str = OPTION) -> Address:
    """Read one address.

    Args:
        text: a URL or the path of a file.
        given_by: the option or variable it came from, for messages.

    Raises:
        InputError: it is no address, or one that a study cannot be kept at.
    """
    text = text.strip()
    scheme, separator, rest = text.partition("://")
    if not separator:
        return _file(_kind_of_path(text, given_by), text, given_by)
    scheme = scheme.lower()
    if scheme.partition("+")[0] == "sqlite":
        return _file("sqlite", _path_in(rest, given_by), given_by)
    if scheme == "journal":
        return _file("journal", _path_in(rest, given_by), given_by)
    if scheme.partition("+")[0] in _SERVERS:
        return _server(scheme, rest, given_by)
    known = ", ".join([*_SERVERS, "sqlite", "journal"])
    raise InputError(f"{given_by}: the address must begin with one of {known}, got {scheme + '://...'!r}")


def _kind_of_path(text: str, given_by: str) -> Kind:
    kind = _FILE_ENDINGS.get(Path(text).suffix.lower())
    if kind is None:
        endings = ", ".join(_FILE_ENDINGS)
        what = (
            "the address is empty" if not text else "not an address of a storage"
        )  # it may hold a password: not shown
        raise InputError(f"{given_by}: {what}; give {_FORMS}, or a path that ends in one of {endings}")
    return kind


def _path_in(rest: str, given_by: str) -> str:
    """The path in what follows `://`, for the two kinds that have no host."""
    if not rest.startswith("/"):
        raise InputError(
            f"{given_by}: a file's address has three slashes, four if its path is absolute; write {_FORMS}"
        )
    return rest[1:]


def _file(kind: Kind, path: str, given_by: str) -> Address:
    if path in ("", ":memory:"):
        raise InputError(f"{given_by}: a study must be kept in a file, got {kind}:///{path}; give {kind}:///PATH")
    if "?" in path or path.startswith("file:"):
        raise InputError(f"{given_by}: options in the address of a file are not read; give {kind}:///PATH alone")
    if "\0" in path:
        raise InputError(f"{given_by}: the path of a file must not hold a NUL character")
    absolute = Path(path).expanduser().absolute()
    return Address(kind, f"{kind}:///{absolute}", absolute, f"{kind}:///{path}")


def _server(scheme: str, rest: str, given_by: str) -> Address:
    """The address of a database server; a password that makes the URL ambiguous is refused without showing it."""
    base, _, driver = scheme.partition("+")
    kind, mapped = _SERVERS[base]
    readable = f"{mapped.partition('+')[0]}+{driver}" if driver else mapped
    url = f"{readable}://{rest}"
    try:
        parts = urlsplit(url)
        ambiguous = "#" in rest or parts.netloc.count("@") > 1 or "@" in parts.path
    except ValueError:
        ambiguous = True
    if ambiguous:
        raise InputError(
            f"{given_by}: the user name or password holds a character that a URL reads otherwise;"
            " write @ as %40, / as %2F, : as %3A, # as %23, ? as %3F, [ as %5B, % as %25"
        )
    try:
        port = parts.port
    except ValueError:
        raise InputError(
            f"{given_by}: the port must be a number from 0 to 65535"
            " (in a password, write : as %3A, / as %2F, # as %23 and ? as %3F)"
        ) from None
    if not parts.path.strip("/"):
        raise InputError(f"{given_by}: the address must name a database: {base}://USER:PASSWORD@HOST/DATABASE")
    return Address(kind, url, None, _masked(base, parts, port))


def _masked(scheme: str, parts: SplitResult, port: int | None) -> str:
    """The address from its harmless parts alone; options may hold secrets and are left out."""
    user = "" if parts.username is None else parts.username + (":***@" if parts.password is not None else "@")
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{user}{host}{'' if port is None else f':{port}'}{parts.path}"


def _is_secret(pair: str) -> bool:
    return any(word in pair.partition("=")[0].lower() for word in ("pass", "pwd", "secret", "token", "key"))


MOUNT_TABLE = Path("/proc/self/mountinfo")
NETWORK = {
    "nfs": "NFS",
    "nfs4": "NFS",
    "cifs": "CIFS",
    "smb3": "SMB",
    "smbfs": "SMB",
    "ncpfs": "NCP",
    "afs": "AFS",
    "lustre": "Lustre",
    "gpfs": "GPFS",
    "beegfs": "BeeGFS",
    "fhgfs": "BeeGFS",
    "ceph": "CephFS",
    "glusterfs": "GlusterFS",
    "panfs": "PanFS",
    "pvfs2": "OrangeFS",
    "orangefs": "OrangeFS",
    "wekafs": "WekaFS",
    "ocfs2": "OCFS2",
    "gfs2": "GFS2",
    "acfs": "ACFS",
    "davfs": "WebDAV",
}
NETWORK_FUSE = {
    "sshfs": "SSHFS",
    "ceph": "CephFS",
    "glusterfs": "GlusterFS",
    "davfs": "WebDAV",
    "davfs2": "WebDAV",
    "s3fs": "S3",
    "goofys": "S3",
    "mount-s3": "S3",
    "gcsfuse": "Google Cloud Storage",
    "blobfuse2": "Azure Blob",
    "rclone": "rclone",
    "juicefs": "JuiceFS",
    "JuiceFS": "JuiceFS",
    "moosefs": "MooseFS",
    "seaweedfs": "SeaweedFS",
    "smbnetfs": "SMB",
    "curlftpfs": "FTP",
    "cvmfs2": "CernVM-FS",
    "alluxio-fuse": "Alluxio",
}


def network_file_system(path: Path, table: Path | None = None) -> str | None:
    """The name of the network file system that a path lies on, or would lie on; None if its disk is local.

    Args:
        path: a file that need not exist.
        table: another mount table than the kernel's; where it cannot be read the disk passes for local.
    """
    real = Path(os.path.realpath(path))
    best, found = -1, ""
    for point, kind in _mounts(table or MOUNT_TABLE):
        if len(point.parts) >= best and (real == point or point in real.parents):
            best, found = len(point.parts), kind
    base, _, program = found.partition(".")
    if base in ("fuse", "fuseblk") and program:
        return NETWORK_FUSE.get(program) or NETWORK_FUSE.get(program.removeprefix("mount."))
    return NETWORK.get(found)


def _mounts(table: Path) -> Iterator[tuple[Path, str]]:
    """Mount point and type of each line; a later one hides an earlier at the same place."""
    try:
        lines = table.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) >= 5 and kinds:
            yield Path(_unescaped(fields[4])), kinds[0]


def _unescaped(text: str) -> str:
    """A mount point as the table writes it: space, tab, line feed and backslash in octal."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
