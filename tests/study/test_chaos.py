"""Random kills, and a database that is restarted: no trial is lost, failed, or run twice at once."""

from __future__ import annotations

import time

import pytest

from jorge_tune.study.storage.address import parse_address
from tests.study.chaos import Chaos
from tests.study.small_studies import sqlite_at


def test_some_chaos(tmp_path):
    chaos = Chaos(tmp_path, sqlite_at(tmp_path), trials=20, workers=3, every=1.0)
    left = chaos.run()
    assert (left.kind, left.exit_code) == ("done", 0), left
    chaos.audit()
    assert sum(chaos.kills.values()) >= 2, chaos.kills  # as fast as the machine is, it takes some seconds


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_chaos_on_sqlite(tmp_path):
    chaos = Chaos(tmp_path, sqlite_at(tmp_path), trials=200, workers=4, every=2.0)
    left = chaos.run()
    seconds = chaos.told[-1][0] - chaos.told[0][0]
    print(f"\n{left.trials} trials, kills {chaos.kills}, {seconds:.0f} s")
    assert (left.kind, left.exit_code) == ("done", 0), left
    chaos.audit()
    assert min(chaos.kills.values()) >= 3, chaos.kills
    assert sum(chaos.kills.values()) >= 0.3 * seconds, chaos.kills  # of one every two seconds


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_chaos_on_a_postgresql_that_is_restarted_in_the_middle(tmp_path, private_postgresql):
    def restart() -> None:
        private_postgresql.stop("immediate")
        time.sleep(20)
        private_postgresql.start()

    address = parse_address(private_postgresql.url())
    chaos = Chaos(tmp_path, address, trials=200, workers=4, every=2.0, middle=restart)
    left = chaos.run()
    seconds = chaos.told[-1][0] - chaos.told[0][0]
    print(f"\n{left.trials} trials, kills {chaos.kills}, {seconds:.0f} s")
    assert (left.kind, left.exit_code) == ("done", 0), left
    chaos.audit()
    assert any("waiting for the database" in told.what for _, told, _ in chaos.told)
    assert min(chaos.kills.values()) >= 3, chaos.kills
    assert sum(chaos.kills.values()) >= 0.3 * seconds, chaos.kills  # of one every two seconds
