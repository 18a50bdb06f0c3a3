"""What tells a worker to leave, and how soon it hears it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from jorge_tune.study.stop import WorkerStops


@pytest.fixture
def stops():
    stops = WorkerStops()
    yield stops
    stops.close()


def test_the_first_stop_request_stands_and_cuts_a_wait_short(stops):
    threading.Timer(0.2, stops.ask, ("study", "stopped by study stop")).start()
    began = time.monotonic()
    assert stops.wait(30)
    assert time.monotonic() - began < 10
    stops.ask("fault", "the disk is full")
    assert stops.request == ("study", "stopped by study stop")


def test_a_wait_without_a_stop_request_lasts(stops):
    began = time.monotonic()
    assert not stops.wait(0.2)
    assert time.monotonic() - began >= 0.2


def test_a_wait_ends_for_other_descriptors_too(stops):
    read, write = os.pipe()
    os.write(write, b"x")
    began = time.monotonic()
    assert not stops.wait(30, read)
    assert time.monotonic() - began < 10
    os.close(read)
    os.close(write)


def test_a_signal_is_a_stop_request_and_handlers_are_put_back(stops):
    before = signal.getsignal(signal.SIGTERM)
    with stops.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stops.wait(10)
    assert stops.request == ("signal", "stopped by SIGTERM")
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_supervisors_death_is_a_stop_request(stops):
    read, write = os.pipe()
    with stops.listening(read):
        assert not stops.wait(0.2)
        os.close(write)
        assert stops.wait(10)
    assert stops.request is not None
    assert stops.request.kind == "supervisor"
    os.close(read)


def test_a_late_stop_request_after_the_close_writes_nowhere():
    stops = WorkerStops()
    stops.close()
    read, write = os.pipe()  # most likely under the numbers that the stops had
    stops.ask("study", "too late")
    os.set_blocking(read, False)
    with pytest.raises(BlockingIOError):
        os.read(read, 1)
    os.close(read)
    os.close(write)


_TWICE = """
import os, signal, time
from jorge_tune.study.stop import WorkerStops
stops = WorkerStops(lambda: os.write(1, b"at once"))
with stops.listening():
    os.kill(os.getpid(), signal.SIGINT)
    os.write(1, (stops.request.reason + "; ").encode())
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)
"""


def test_a_second_signal_ends_the_process_at_once():
    answer = subprocess.run([sys.executable, "-c", _TWICE], capture_output=True, text=True, check=False, timeout=20)
    assert answer.returncode == 130, answer.stderr
    assert answer.stdout == "stopped by SIGINT; at once"
