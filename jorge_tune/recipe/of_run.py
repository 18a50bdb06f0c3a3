"""The recipe that a run folder holds: written by this program, and yet perhaps not what it wrote."""

from __future__ import annotations

from jorge_tune.errors import FaultyFileError, RunFolderError, shortened
from jorge_tune.files import read_regular_bytes
from jorge_tune.recipe.io import parse_recipe
from jorge_tune.recipe.nodes import LARGEST_FILE
from jorge_tune.recipe.schema import Recipe
from jorge_tune.records import RunFolder


def recipe_of_run(folder: RunFolder) -> Recipe:
    """The recipe of the run in a folder, in one message whatever is wrong with it.

    Raises:
        RunFolderError: there is none, it is no regular file, or it has faults.
    """
    path = folder.recipe
    try:
        text = read_regular_bytes(path, most=LARGEST_FILE, error=RunFolderError).decode("utf-8-sig")
        return parse_recipe(text, str(path)).recipe
    except FileNotFoundError as error:
        raise RunFolderError(f"{folder.root}: not a whole run folder (no {path.name})") from error
    except UnicodeDecodeError as error:
        raise RunFolderError(f"{path}: must be UTF-8 text, got the byte 0x{error.object[error.start]:02x}") from error
    except FaultyFileError as error:
        faults = [fault.located(str(path)) for fault in error.faults]
        raise RunFolderError(shortened(faults)) from error
