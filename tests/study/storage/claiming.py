"""What worker processes do in the tests of claims."""

from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing.synchronize import Event

from optuna.trial import TrialState

from jorge_tune.study.storage.address import Address
from jorge_tune.study.storage.claims import Claim, Claims
from jorge_tune.study.storage.open import claims_for, open_storage
from jorge_tune.study.storage.patient import PatientStorage
from jorge_tune.study.storage.retry import Patience

Ready = Callable[[], object]


def claims_of(storage: PatientStorage, study_name: str) -> Claims:
    return claims_for(storage, storage.get_study_id_from_name(study_name))


def claim_all(ready: Ready, address: Address, study_name: str, worker: str, total: int) -> list[int]:
    """Claim and finish until nothing is left; the numbers."""
    claims = claims_of(open_storage(address), study_name)
    ready()
    numbers = []
    while (claim := claims.claim(worker, total)) is not None:
        numbers.append(claim.number)
        assert claims.renew(claim)
        assert claims.finish(claim, TrialState.COMPLETE, [float(claim.number)])
    return numbers


def claim_one(ready: Ready, address: Address, study_name: str, worker: str, total: int) -> Claim | None:
    """One claim."""
    claims = claims_of(open_storage(address), study_name)
    ready()
    return claims.claim(worker, total)


def take_back_all(ready: Ready, address: Address, study_name: str) -> list[int]:
    """Take back every running trial; the numbers of those that this process took."""
    claims = claims_of(open_storage(address), study_name)
    held = claims.running()
    ready()
    return [each.number for each in held if claims.take_back(each)]


def renew_while(ready: Ready, address: Address, study_name: str, claim: Claim) -> int:
    """Renew until the trial is no longer ours; how often that worked."""
    claims = claims_of(open_storage(address), study_name)
    ready()
    renewed = 0
    while claims.renew(claim):
        renewed += 1
    return renewed


def take_one_back(ready: Ready, address: Address, study_name: str) -> int:
    """Take the only running trial back from an owner that renews; after how many attempts."""
    claims = claims_of(open_storage(address), study_name)
    ready()
    attempts = 0
    while True:
        attempts += 1
        if claims.take_back(claims.running()[0]):
            return attempts


def work_until_killed(address: Address, study_name: str, worker: str, working: Event) -> None:
    """Claim, report and finish for ever, once `working` is set; nothing is left in order when it is killed."""
    storage = open_storage(address)
    claims = claims_of(storage, study_name)
    while True:
        claim = claims.claim(worker, 1_000_000)
        assert claim is not None
        storage.set_trial_intermediate_value(claim.trial_id, 0, 1.0)
        claims.renew(claim)
        claims.hand_back(claim) if claim.number % 5 == 4 else claims.finish(claim, TrialState.COMPLETE, [1.0])
        working.set()


def open_and_list(ready: Ready, address: Address) -> int:
    """Open a storage that others open at the same moment."""
    ready()
    storage = open_storage(address)
    return len(storage.get_all_studies())


def claim_patiently(
    ready: Ready, address: Address, study_name: str, worker: str, total: int, seconds: float
) -> tuple[list[int], list[str]]:
    """Claim, report, renew and finish for so long; the numbers, and what was told meanwhile."""
    told: list[str] = []
    storage = open_storage(address, patience=Patience(address, told=told.append), wait=True)
    claims = claims_of(storage, study_name)
    ready()
    numbers, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        claim = claims.claim(worker, total)
        assert claim is not None
        storage.set_trial_intermediate_value(claim.trial_id, 0, 1.0)
        assert claims.renew(claim)
        assert claims.finish(claim, TrialState.COMPLETE, [1.0])
        numbers.append(claim.number)
    return numbers, told
