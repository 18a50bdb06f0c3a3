"""Where the dashboard finds the artifacts of several studies: each has a folder of its own, under its runs.

Others may write into these folders: nothing is served that is no regular file, and nothing is written through a link.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from jorge_tune.errors import InputError
from jorge_tune.files import open_regular

if TYPE_CHECKING:
    from optuna.artifacts import FileSystemArtifactStore

ARTIFACTS = "artifacts"


class ArtifactFolders:
    """Optuna's file store over several folders; new files go into the first.

    Args:
        folders: of the artifacts; those that are missing hold nothing.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        from optuna.artifacts import FileSystemArtifactStore

        self._folders = list(folders)
        self._stores: list[FileSystemArtifactStore] = [FileSystemArtifactStore(folder) for folder in folders]

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """The file, from whichever folder has it.

        Raises:
            ArtifactNotFound: none has, or it is a link, a pipe or a device.
        """
        from optuna.artifacts.exceptions import ArtifactNotFound

        if artifact_id != os.path.basename(artifact_id):
            raise ArtifactNotFound(f"{artifact_id}: no name of a file")
        for folder in self._folders:
            try:
                return os.fdopen(open_regular(folder / artifact_id, below=folder.parent), "rb")
            except FileNotFoundError:
                continue
            except InputError as error:
                raise ArtifactNotFound(str(error)) from None
        raise ArtifactNotFound(f"{artifact_id}: its file is not on this machine")

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Keep a file that somebody brings to the dashboard."""
        self._folders[0].mkdir(parents=True, exist_ok=True)
        if self._folders[0].is_symlink():
            raise InputError(f"{self._folders[0]}: must be a folder, got a symbolic link; move it away")
        self._stores[0].write(artifact_id, content_body)

    def remove(self, artifact_id: str) -> None:
        """Delete the file; one that is not on this machine is nothing to this machine."""
        from optuna.artifacts.exceptions import ArtifactNotFound

        for store in self._stores:
            try:
                store.remove(artifact_id)
            except ArtifactNotFound:
                continue
