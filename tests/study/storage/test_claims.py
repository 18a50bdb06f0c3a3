from __future__ import annotations

import random
import time
from itertools import chain

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import Trial, TrialState, create_trial

from jorge_tune.study.storage.claims import LEASE, ClaimedBy, lease_of, owner_of
from jorge_tune.study.storage.open import claims_for
from tests.study.servers import clients_of
from tests.study.storage.claiming import (
    claim_all,
    claim_one,
    renew_while,
    take_back_all,
    take_one_back,
    work_until_killed,
)
from tests.study.storage.crowd import crowd, event, start
from tests.waiting import wait_until


@pytest.fixture
def study(storage_address, study_name, opened):
    storage = opened(storage_address)
    study = optuna.create_study(study_name=study_name, storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))
    yield study
    optuna.delete_study(study_name=study_name, storage=storage)


@pytest.fixture
def claims(study):
    return claims_for(study._storage, study._study_id)


def states(study):
    return [trial.state.name for trial in study.get_trials(deepcopy=False)]


def test_a_claim_creates_trials_up_to_the_total(study, claims):
    taken = [claims.claim("w", 3) for _ in range(3)]
    assert [claim.number for claim in taken] == [0, 1, 2]
    assert len({claim.token for claim in taken}) == 3
    assert claims.claim("w", 3) is None
    assert states(study) == ["RUNNING"] * 3
    assert all(trial.datetime_start is not None for trial in study.get_trials())
    assert claims.claim("w", 4).number == 3


def test_waiting_trials_come_first_and_count_towards_the_total(study, claims):
    claims.claim("w", 1)
    for value in (0.25, 0.75):
        study.enqueue_trial({"x": value})
    first, second = claims.claim("w", 3), claims.claim("w", 3)
    assert (first.number, second.number) == (1, 2)
    assert claims.claim("w", 3) is None
    trial = Trial(study, second.trial_id)
    assert trial.suggest_float("x", 0, 1) == 0.75
    assert claims.claim("w", 0) is None


def test_a_trial_that_waits_again_keeps_number_parameters_and_reports(study, claims):
    claim = claims.claim("w", 2)
    trial = Trial(study, claim.trial_id)
    x = trial.suggest_float("x", 0, 1)
    trial.report(0.5, 1)
    trial.set_user_attr("seen", True)
    assert claims.hand_back(claim)
    assert states(study) == ["WAITING"]
    again = claims.claim("other", 2)
    assert (again.trial_id, again.number) == (claim.trial_id, 0)
    assert again.token != claim.token
    trial = Trial(study, again.trial_id)
    assert trial.suggest_float("x", 0, 1) == x
    trial.suggest_float("y", 0, 1)
    trial.report(0.75, 2)
    assert claims.finish(again, TrialState.COMPLETE, [2.5])
    (stored,) = study.get_trials()
    assert stored.intermediate_values == {1: 0.5, 2: 0.75}
    assert (stored.value, stored.user_attrs, sorted(stored.params)) == (2.5, {"seen": True}, ["x", "y"])


def test_the_lowest_number_is_claimed_first_whatever_the_order_of_their_return(study, claims):
    taken = [claims.claim("w", 4) for _ in range(4)]
    for number in (3, 1, 2):
        assert claims.hand_back(taken[number])
    assert [claims.claim("w", 4).number for _ in range(3)] == [1, 2, 3]


def test_an_owner_renews_its_lease_and_nobody_elses(study, claims):
    claim = claims.claim("w:1", 1)
    seen = [claims.running()[0].lease]
    for _ in range(3):
        assert claims.renew(claim)
        seen.append(claims.running()[0].lease)
    assert [owner_of(lease) for lease in seen] == [(claim.token, beat) for beat in range(4)]
    assert not claims.renew(claim._replace(token=f"{claim.token}x"))
    assert claims.running() == [ClaimedBy(claim.trial_id, 0, seen[-1])]


def test_who_was_taken_back_can_change_nothing_any_more(study, claims):
    claim = claims.claim("w", 1)
    assert claims.take_back(claims.running()[0])
    for again in (False, True):
        assert not claims.renew(claim)
        assert not claims.hand_back(claim)
        assert not claims.finish(claim, TrialState.COMPLETE, [1.0])
        assert states(study) == (["RUNNING"] if again else ["WAITING"])
        if not again:
            second = claims.claim("other", 1)
    assert claims.finish(second, TrialState.FAIL)
    assert not claims.finish(second, TrialState.COMPLETE, [1.0])
    assert not claims.renew(second)
    assert study.get_trials()[0].values is None


def test_a_lease_that_moved_is_not_taken_back(study, claims):
    claim = claims.claim("w", 1)
    seen = claims.running()[0]
    assert claims.renew(claim)
    assert not claims.take_back(seen)
    assert not claims.take_back(seen._replace(lease=None))
    assert claims.take_back(claims.running()[0])
    assert not claims.take_back(claims.running()[0] if claims.running() else seen)


def test_a_running_trial_without_a_lease_can_be_taken_back_once(study, claims):
    asked = study.ask()
    (held,) = claims.running()
    assert held == ClaimedBy(asked._trial_id, 0, None)
    assert claims.take_back(held)
    assert not claims.take_back(held)
    assert claims.claim("w", 1).number == 0


def test_a_trial_that_was_told_in_optunas_own_way_is_nobodys(study, claims):
    claim = claims.claim("w", 1)
    study.tell(claim.number, 1.0)
    assert claims.running() == []
    assert not claims.renew(claim)
    assert not claims.hand_back(claim)
    assert not claims.take_back(ClaimedBy(claim.trial_id, 0, lease_of(claim.token, 0)))
    assert states(study) == ["COMPLETE"]


@pytest.mark.parametrize("value", [1.5, float("inf"), float("-inf"), -0.0])
def test_values_are_stored_as_they_are(study, claims, value):
    claim = claims.claim("w", 1)
    assert claims.finish(claim, TrialState.COMPLETE, [value])
    (trial,) = study.get_trials()
    assert trial.values == [value]
    assert trial.datetime_complete is not None
    assert trial.system_attrs[LEASE]["token"] == claim.token


def test_a_pruned_trial_may_have_no_value(study, claims):
    assert claims.finish(claims.claim("w", 2), TrialState.PRUNED)
    assert claims.finish(claims.claim("w", 2), TrialState.PRUNED, [0.5])
    assert [(trial.state.name, trial.values) for trial in study.get_trials()] == [("PRUNED", None), ("PRUNED", [0.5])]


def test_studies_of_one_storage_do_not_see_each_other(study, claims, study_name):
    storage = study._storage
    other = optuna.create_study(study_name=f"{study_name}.other", storage=storage)
    theirs = claims_for(storage, other._study_id)
    assert [claims.claim("w", 2).number, theirs.claim("w", 2).number, claims.claim("w", 2).number] == [0, 0, 1]
    assert [held.number for held in claims.running()] == [0, 1]
    assert len(theirs.running()) == 1
    optuna.delete_study(study_name=other.study_name, storage=storage)


def test_the_sampler_sees_what_claims_finished(study, claims):
    for number in range(4):
        claim = claims.claim("w", 5)
        trial = Trial(study, claim.trial_id)
        trial.suggest_float("x", 0, 1)
        if number == 2:  # another process tells, so that this one's cache must read it
            other = claims_for(study._storage, study._study_id)
            assert other.finish(claim, TrialState.COMPLETE, [float(number)])
        else:
            assert claims.finish(claim, TrialState.COMPLETE, [float(number)])
    study._thread_local.cached_all_trials = None
    assert [trial.value for trial in study.get_trials()] == [0.0, 1.0, 2.0, 3.0]
    assert study.best_value == 0.0


def test_a_trial_in_the_midst_of_others_can_be_run_again_after_later_ones_ended(study, claims):
    first, second = claims.claim("w", 2), claims.claim("w", 2)
    assert claims.finish(second, TrialState.COMPLETE, [1.0])
    study.get_trials()  # the cache now knows of a later finished trial
    assert claims.hand_back(first)
    again = claims.claim("w", 2)
    trial = Trial(study, again.trial_id)
    trial.suggest_float("x", 0, 1)
    assert claims.finish(again, TrialState.COMPLETE, [2.0])
    assert [trial.value for trial in study.get_trials()] == [2.0, 1.0]


def test_trials_that_optuna_added_count_too(study, claims):
    study.add_trial(create_trial(value=1.0, params={"x": 0.5}, distributions={"x": FloatDistribution(0, 1)}))
    assert claims.claim("w", 2).number == 1
    assert claims.claim("w", 2) is None


def test_many_processes_share_a_total_without_losing_or_doubling_a_trial(study, storage_address, study_name):
    for value in range(3):
        study.enqueue_trial({"x": float(value)})
    numbers = crowd(claim_all, [(storage_address, study_name, f"w{index}", 40) for index in range(8)])
    assert sorted(chain.from_iterable(numbers)) == list(range(40))
    trials = study.get_trials()
    assert [trial.number for trial in trials] == list(range(40))
    assert [trial.value for trial in trials] == [float(number) for number in range(40)]


@pytest.mark.parametrize("waiting", [False, True])
def test_of_many_that_ask_for_the_last_trial_one_gets_it(study, storage_address, study_name, waiting):
    claims = claims_for(study._storage, study._study_id)
    last = [claims.claim("w", 5) for _ in range(4 + waiting)][-1]
    if waiting:
        assert claims.hand_back(last)
    crowded = storage_address.kind == "postgresql" and not waiting
    askers = [(storage_address, study_name, f"w{index}", 5) for index in range(32 if crowded else 8)]
    assert [claim.number for claim in crowd(claim_one, askers) if claim is not None] == [4]
    assert states(study) == ["RUNNING"] * 5


def test_no_trial_is_created_while_others_wait_however_many_ask(study, storage_address, study_name):
    for value in range(8):
        study.enqueue_trial({"x": float(value)})
    taken = crowd(claim_one, [(storage_address, study_name, f"w{index}", 20) for index in range(8)])
    assert sorted(claim.number for claim in taken) == list(range(8))


def test_of_many_reapers_one_takes_each_trial_back(study, storage_address, study_name):
    claims = claims_for(study._storage, study._study_id)
    for _ in range(12):
        claims.claim("w", 12)
    for _ in range(3):
        study.ask()
    taken = crowd(take_back_all, [(storage_address, study_name)] * 6)
    assert sorted(chain.from_iterable(taken)) == list(range(15))
    assert states(study) == ["WAITING"] * 15


def test_a_renewal_and_a_reaper_never_both_win(study, storage_address, study_name, claims):
    claim = claims.claim("w", 1)
    both = [(what, storage_address, study_name, claim) for what in ("renew", "take")]
    renewed, attempts = crowd(_renew_or_take, both)
    assert states(study) == ["WAITING"]
    assert attempts >= 1
    assert renewed >= 0
    assert study.get_trials()[0].system_attrs[LEASE]["token"] is None


def _renew_or_take(ready, what, address, study_name, claim):
    if what == "renew":
        return renew_while(ready, address, study_name, claim)
    return take_one_back(ready, address, study_name)


def test_a_kill_at_any_moment_leaves_every_trial_whole(study, storage_address, study_name, claims):
    before = clients_of(storage_address)
    workers = [start(work_until_killed, storage_address, study_name, f"w{index}", event()) for index in range(5)]
    for process, working in workers:
        assert working.wait(60)
        time.sleep(random.uniform(0, 0.05))
        process.kill()
        process.join()
    wait_until(lambda: clients_of(storage_address) <= before)  # a server may still commit what a dead one had sent
    held = claims.running()
    assert all(owner_of(each.lease)[0] for each in held), "state and lease are written together"
    assert all(claims.take_back(each) for each in held)
    total = len(study.get_trials())
    while (claim := claims.claim("last", total)) is not None:
        assert claims.finish(claim, TrialState.COMPLETE, [2.0])
    trials = study.get_trials()
    assert [trial.number for trial in trials] == list(range(total))
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    assert {trial.value for trial in trials} >= {1.0}
