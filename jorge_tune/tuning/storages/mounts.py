"""Which file system a path lies on, as the kernel's mount table says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

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
