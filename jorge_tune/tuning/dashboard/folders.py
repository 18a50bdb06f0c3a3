"""Where the dashboard finds the artifacts of several studies: each has a folder of its own, under its runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

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
            ArtifactNotFound: none has.
        """
        from optuna.artifacts.exceptions import ArtifactNotFound

        for store in self._stores:
            try:
                return store.open_reader(artifact_id)
            except ArtifactNotFound:
                continue
        raise ArtifactNotFound(f"{artifact_id}: its file is not on this machine")

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Keep a file that somebody brings to the dashboard."""
        self._folders[0].mkdir(parents=True, exist_ok=True)
        self._stores[0].write(artifact_id, content_body)

    def remove(self, artifact_id: str) -> None:
        """Delete the file; one that is not on this machine is nothing to this machine."""
        from optuna.artifacts.exceptions import ArtifactNotFound

        for store in self._stores:
            try:
                store.remove(artifact_id)
            except ArtifactNotFound:
                continue
