"""Measurements kept in JSON files named by their fingerprint; a damaged one is set aside, never trusted.

The folder: `--cache`, else JORGE_TUNE_CACHE, else XDG_CACHE_HOME/jorge-tune, else ~/.cache/jorge-tune.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jorge_tune.errors import InputError
from jorge_tune.files import write_whole
from jorge_tune.measure.timings import (
    Measurements,
    Profile,
    measurements_from_json,
    measurements_to_json,
    profile_from_json,
    profile_to_json,
)

_FORMAT = 3
_LARGEST_BYTES = 10_000_000


@dataclass(frozen=True)
class Entry:
    """One calibration as it was measured, under the facts that it depends on."""

    fingerprint: str
    facts: Mapping[str, Any]
    measured_on: str  # a date
    measurements: Measurements
    profile: Profile


class Lookup(NamedTuple):
    """What the cache has, and what there is to say about it."""

    entry: Entry | None
    warning: str | None = None


def cache_folder(asked: Path | None = None, environment: Mapping[str, str] = os.environ) -> Path:
    """Where calibrations are kept."""
    if asked is not None:
        return asked
    own = environment.get("JORGE_TUNE_CACHE")
    if own:
        return Path(own).expanduser()
    shared = environment.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path("~/.cache").expanduser()) / "jorge-tune"


def entry_path(folder: Path, fingerprint: str) -> Path:
    """The file of one calibration."""
    return folder / "calibrations" / f"{fingerprint}.json"


def look_up(folder: Path, fingerprint: str) -> Lookup:
    """Read a calibration.

    A damaged file is renamed to end in `.damaged`, and named in the warning; one in the format of an older version is
    as good as none.
    """
    path = entry_path(folder, fingerprint)
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ValueError("too large")
        data = json.loads(path.read_text())
        is_older = data["format"] in range(1, _FORMAT)
        return Lookup(None if is_older else _entry_from_json(data, fingerprint))
    except FileNotFoundError:
        return Lookup(None)
    except OSError as error:
        return Lookup(None, f"{path}: cannot be read ({error.strerror}), so the recipe is measured anew")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return Lookup(None, _set_aside(path, error))


def keep(folder: Path, entry: Entry) -> str | None:
    """Write a calibration; what kept it from being written, if anything did."""
    data = {
        "format": _FORMAT,
        "fingerprint": entry.fingerprint,
        "facts": entry.facts,
        "measured_on": entry.measured_on,
        "measurements": measurements_to_json(entry.measurements),
        "profile": profile_to_json(entry.profile),
    }
    path = entry_path(folder, entry.fingerprint)
    try:
        write_whole(path, json.dumps(data) + "\n", force=True, make_folders=True)
    except InputError as error:
        return f"not kept for the next time: {error}"
    return None


def today() -> str:
    """The date in UTC."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _entry_from_json(data: Any, fingerprint: str) -> Entry:
    if data["format"] != _FORMAT or data["fingerprint"] != fingerprint:
        raise ValueError("another format or fingerprint")
    return Entry(
        fingerprint=fingerprint,
        facts=dict(data["facts"]),
        measured_on=str(data["measured_on"]),
        measurements=measurements_from_json(data["measurements"]),
        profile=profile_from_json(data["profile"]),
    )


def _set_aside(path: Path, error: Exception) -> str:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if isinstance(error, KeyError):
        reason = f"it has no {reason}"
    aside = path.with_name(path.name + ".damaged")
    try:
        path.replace(aside)
    except OSError:
        return f"{path}: is damaged ({reason}) and cannot be set aside; the recipe is measured anew"
    return f"{path}: is damaged ({reason}); it was set aside as {aside.name}, and the recipe is measured anew"
