"""Leases by clocks that tests turn: who may think what, and when."""

from __future__ import annotations

import threading
import time

import pytest

from jorge_tune.errors import JorgeTuneError
from jorge_tune.study.leases import Lease, LeaseObserver, LeaseTimes, owners_clock
from tests.waiting import wait_until

TIMES = LeaseTimes()


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Storage:
    """What answers renewals: True, False, or an error while it is away."""

    def __init__(self) -> None:
        self.answer: bool | None = True
        self.beats = 0
        self.answered = threading.Event()

    def renew(self) -> bool:
        try:
            if self.answer is None:
                raise JorgeTuneError("the database is gone")
            self.beats += 1
            return self.answer
        finally:
            self.answered.set()


class Rig:
    """A lease whose watch is called by hand; renewals still run in their own thread."""

    def __init__(self) -> None:
        self.clock, self.storage = Clock(), Storage()
        self.stopped: list[str] = []
        self.killed: list[str] = []
        self.lease = Lease(
            self.storage.renew,
            since=self.clock(),
            times=TIMES,
            stop=self.stopped.append,
            kill=self.killed.append,
            clock=self.clock,
        )

    def pass_seconds(self, seconds: int) -> None:
        """One look a second."""
        for _ in range(seconds):
            self.clock.now += 1
            self.lease.check()
            if (under_way := self.lease._under_way) is not None:
                under_way.join(5)


def test_a_lease_that_is_renewed_is_held_for_ever():
    rig = Rig()
    rig.pass_seconds(1000)
    assert rig.lease.expired is None
    assert not rig.stopped
    assert 45 <= rig.storage.beats <= 50  # every 20 to 22 s
    assert rig.lease.age <= 22


def test_one_that_cannot_be_renewed_stops_its_run_and_then_kills_it_before_it_is_lost():
    rig = Rig()
    rig.storage.answer = None
    rig.pass_seconds(59)
    assert rig.lease.expired is None
    assert not rig.stopped
    rig.pass_seconds(1)
    assert len(rig.stopped) == 1
    assert "could not be renewed for 60 s: the database is gone" in rig.stopped[0]
    assert rig.lease.expired == rig.stopped[0]
    rig.pass_seconds(14)
    assert not rig.killed
    rig.pass_seconds(1)
    assert len(rig.killed) == 1
    rig.pass_seconds(100)
    assert (len(rig.stopped), len(rig.killed)) == (1, 1)


def test_a_storage_that_is_away_for_half_a_minute_does_no_harm():
    rig = Rig()
    rig.pass_seconds(19)  # the last beat is as old as it gets
    rig.storage.answer = None
    rig.pass_seconds(30)
    rig.storage.answer = True
    rig.pass_seconds(10)
    assert rig.lease.expired is None
    assert rig.storage.beats == 1


def test_an_expired_lease_reports_nothing_even_if_a_later_renewal_arrives():
    rig = Rig()
    rig.storage.answer = None
    rig.pass_seconds(61)
    rig.storage.answer = True
    rig.pass_seconds(5)
    assert rig.storage.beats == 1
    assert rig.lease.age < 5
    assert rig.lease.expired is not None


def test_a_lease_in_other_hands_kills_the_run_at_once():
    rig = Rig()
    rig.storage.answer = False
    rig.pass_seconds(21)
    assert rig.killed == ["another worker has taken the trial over"]
    assert rig.lease.expired == rig.killed[0]


def test_a_machine_that_slept_notices_when_it_wakes():
    rig = Rig()
    rig.storage.answer = None
    rig.clock.now += 3600
    assert rig.lease.expired is not None  # before any look: nothing may be told now
    rig.lease.check()
    assert len(rig.killed) == 1


def test_a_renewal_that_hangs_does_not_hold_up_the_watch():
    rig = Rig()
    let_go = threading.Event()
    rig.lease._renew = lambda: let_go.wait(30)
    for _ in range(80):
        rig.clock.now += 1
        rig.lease.check()
    assert len(rig.stopped) == len(rig.killed) == 1
    let_go.set()


def test_the_watch_runs_by_itself():
    beats = []
    lease = Lease(
        lambda: not beats.append(time.monotonic()),
        since=owners_clock(),
        times=LeaseTimes(renew_every=0.4, retry_every=0.05),
        stop=lambda reason: None,
        kill=lambda reason: None,
    )
    with lease:
        wait_until(lambda: len(beats) >= 2)
        assert lease.expired is None
    for thread in threading.enumerate():
        if thread.name in ("lease", "renewal"):
            thread.join(5)
    after = len(beats)
    time.sleep(0.6)
    assert len(beats) == after


def test_owner_and_observer_never_think_it_theirs_at_once():
    """The observer's first look at a beat is never before the beat was sent, so 75 s come before 90 s."""
    assert TIMES.kill_after < TIMES.lasts
    clock = Clock(0)
    still = LeaseObserver(TIMES.lasts, clock)
    rig = Rig()
    rig.storage.answer = None
    still.look({1: "beat 0"})
    for _ in range(200):
        clock.now += 1
        rig.pass_seconds(1)
        if still.look({1: "beat 0"}):
            break
    assert rig.killed
    assert clock.now == TIMES.lasts


@pytest.mark.parametrize("lease", ["beat 0", None])
def test_a_lease_that_stands_still_is_lost_and_so_is_a_trial_without_one(lease):
    clock = Clock()
    still = LeaseObserver(90, clock)
    assert still.look({1: lease}) == set()
    clock.now += 89
    assert still.look({1: lease}) == set()
    clock.now += 1
    assert still.look({1: lease}) == {1}


def test_every_beat_begins_the_wait_anew():
    clock = Clock()
    still = LeaseObserver(90, clock)
    for beat in range(20):
        clock.now += 80
        assert still.look({1: f"beat {beat}"}) == set()


def test_a_trial_that_was_away_is_a_new_one():
    clock = Clock()
    still = LeaseObserver(90, clock)
    still.look({1: "beat 0"})
    clock.now += 60
    still.look({})
    clock.now += 60
    assert still.look({1: "beat 0"}) == set()


def test_times_out_of_order_are_our_mistake():
    with pytest.raises(AssertionError):
        LeaseTimes(stop_after=80.0)
