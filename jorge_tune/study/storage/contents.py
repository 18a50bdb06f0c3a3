"""What a storage holds of trials and attributes, as far as it is of the types that it should be.

Others write there too: another version, another program, somebody's hand. What cannot be read is left out of the trial
that is handed out, which says so in words in its attribute `UNREAD`; nothing in the storage is changed by reading it.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from jorge_tune.study.storage.optuna_private import SECTIONS, trial_id_of
from jorge_tune.untrusted import is_number, is_shallow, must_be, shown

UNREAD = "jorge:unread"
"""System attribute of a trial as it is handed out, never stored: what of it could not be read, a sentence each."""
_CONSTRAINTS = "constraints"


def parse_json(text: object) -> Any:
    """What a stored text says.

    Raises:
        ValueError: it is no JSON, or nested too deep.
    """
    try:
        value = json.loads(text)  # type: ignore[arg-type]
    except RecursionError:
        raise ValueError("nested too deep") from None
    except (TypeError, ValueError):
        raise ValueError("not JSON") from None
    if not is_shallow(value):
        raise ValueError("nested too deep")
    return value


def read_json(text: object) -> Any:
    """What a stored text says; a text that says why, where it cannot be read."""
    try:
        return parse_json(text)
    except ValueError as error:
        return f"(cannot be read: {error})"


class CleanTrials:
    """Trials with everything of a wrong type left out; a trial that is handed in again costs nothing."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[FrozenTrial, FrozenTrial]] = {}

    def __call__(self, trial: FrozenTrial) -> FrozenTrial:
        """The trial itself where all of it can be read."""
        if not trial.state.is_finished():
            return cleaned(trial)
        known = self._known.get(trial_id_of(trial))
        if known is None or known[0] is not trial:
            known = self._known[trial_id_of(trial)] = (trial, cleaned(trial))
        return known[1]


def cleaned(trial: FrozenTrial) -> FrozenTrial:
    """A trial whose attributes, values and reports are of their types; a completed one without a value has failed."""
    trial, missing = _with_sections(trial)
    user, user_faults = _attributes(trial.user_attrs, _USER)
    system, faults = _attributes(trial.system_attrs, _SYSTEM)
    constraints, constraint_faults = _constraints(system)
    values, value_faults = _values(trial)
    reports = {step: value for step, value in trial.intermediate_values.items() if _is_report(step, value)}
    times = [_time(when) for when in (trial.datetime_start, trial.datetime_complete)]
    faults = [*missing, *_unread(trial), *value_faults, *user_faults, *faults, *constraint_faults]
    if len(reports) != len(trial.intermediate_values):
        faults.append("its reports must be numbers by step, and some are not")
    if times != [trial.datetime_start, trial.datetime_complete]:
        faults.append("its times must be dates, and are not")
    if not faults:
        return trial
    clean = copy.copy(trial)
    clean.intermediate_values, clean.user_attrs = reports, user
    clean.system_attrs = {**system, **constraints, UNREAD: faults}
    clean.values, clean.datetime_start, clean.datetime_complete = values, *times
    if trial.state is TrialState.COMPLETE and values is None:
        clean.state = TrialState.FAIL
    return clean


def unread_of(trial: FrozenTrial) -> list[str]:
    """What of a trial that was handed out could not be read."""
    return _unread(trial)


def _with_sections(trial: FrozenTrial) -> tuple[FrozenTrial, list[str]]:
    """The trial with a section, empty perhaps, wherever one belongs: a journal's line may hold anything instead."""
    wrong = [name for name in SECTIONS if not isinstance(getattr(trial, name), dict)]
    if not wrong:
        return trial, []
    whole = copy.copy(trial)
    for name in wrong:
        setattr(whole, name, {})
    return whole, [f"its {SECTIONS[name]} must be a section" for name in wrong]


def _unread(trial: FrozenTrial) -> list[str]:
    held = trial.system_attrs.get(UNREAD, [])
    return [str(item) for item in held] if isinstance(held, list) else []


def _time(when: object) -> datetime | None:
    return when if isinstance(when, datetime) else None


def _is_report(step: object, value: object) -> bool:
    number = isinstance(value, float) and math.isnan(value)
    return isinstance(step, int) and not isinstance(step, bool) and abs(step) < 2**53 and (number or is_number(value))


def _values(trial: FrozenTrial) -> tuple[list[float] | None, list[str]]:
    """The one number of a trial that has ended with one."""
    held = trial.values
    if held is None:
        needs = trial.state is TrialState.COMPLETE
        return None, ["its value is missing, although it is completed"] if needs else []
    if len(held) == 1 and is_number(held[0]):
        return [float(held[0])], []
    return None, [must_be("its value", "one number", held[0] if len(held) == 1 else held)]


def _attributes(
    held: Mapping[str, Any], known: Mapping[str, tuple[str, Callable[[Any], bool]]]
) -> tuple[dict[str, Any], list[str]]:
    """Those of the right type, and a sentence for each of the others."""
    kept, faults = {}, []
    for key, value in held.items():
        rule, holds = known.get(key, ("nested no deeper", is_shallow))
        if key == UNREAD or (is_shallow(value) and holds(value)):
            kept[key] = value
        else:
            faults.append(must_be(f"its attribute {shown(key)}", rule, value))
    return kept, faults


def _constraints(system: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What stands for constraints that cannot be read: one that is broken, so that such a trial is never the best."""
    replaced: dict[str, Any] = {}
    faults = []
    for key, value in system.items():
        if key == _CONSTRAINTS:
            if value is not None and not (isinstance(value, list) and all(map(is_number, value))):
                replaced[key] = [math.inf]
                faults.append(must_be("its constraints", "numbers", value))
        elif key.startswith(f"{_CONSTRAINTS}:") and not is_number(value):
            replaced[key] = math.inf
            faults.append(must_be(f"its constraint {shown(key.partition(':')[2])}", "a number", value))
    return replaced, faults


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_scalars(value: object) -> bool:
    return isinstance(value, dict) and all(is_scalar(item) for item in value.values())


def is_scalar(value: object) -> bool:
    """Whether it is one of JSON's values without parts."""
    return value is None or isinstance(value, (str, bool)) or is_number(value)


def _is_numbers(value: object) -> bool:
    """Numbers by key, infinities as `records.portable` has them."""
    return isinstance(value, dict) and all(one in ("nan", "inf", "-inf") or is_number(one) for one in value.values())


def _is_finite(value: object) -> bool:
    return is_number(value) and math.isfinite(float(value))  # type: ignore[arg-type]


_USER: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "diverged": ("true or false", lambda value: isinstance(value, bool)),
    "reason": ("text", _is_text),
    "changes": ("a list of texts", _is_texts),
    "worker": ("text", _is_text),
    "values": ("numbers by seed", _is_numbers),
    "iteration_time": ("a finite number", _is_finite),
    "seconds": ("text", _is_text),
    "restarted": ("text", _is_text),
}
_SYSTEM: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "fixed_params": ("values by parameter", _is_scalars),
    "jorge:starts": ("a section", lambda value: isinstance(value, dict)),
    "jorge:folder": ("text", _is_text),
    "cma:generation": ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
}


def faults_in(pieces: Mapping[str, Callable[[], Any]]) -> Iterator[tuple[str, Any, str]]:
    """Read pieces one by one: (name, what was read, "") or (name, None, why it cannot be read)."""
    for name, read in pieces.items():
        try:
            yield name, read(), ""
        except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
            yield name, None, f"{type(error).__name__}: {error}"
        except RecursionError:
            yield name, None, "nested too deep"
