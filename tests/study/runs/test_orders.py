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
def orders():
    orders = WorkerStops()
    yield orders
    orders.close()


def test_the_first_order_stands_and_cuts_a_wait_short(orders):
    threading.Timer(0.2, orders.give, ("study", "stopped by study stop")).start()
    began = time.monotonic()
    assert orders.wait(30)
    assert time.monotonic() - began < 10
    orders.give("fault", "the disk is full")
    assert orders.order == ("study", "stopped by study stop")


def test_a_wait_without_an_order_lasts(orders):
    began = time.monotonic()
    assert not orders.wait(0.2)
    assert time.monotonic() - began >= 0.2


def test_a_wait_ends_for_other_descriptors_too(orders):
    read, write = os.pipe()
    os.write(write, b"x")
    began = time.monotonic()
    assert not orders.wait(30, read)
    assert time.monotonic() - began < 10
    os.close(read)
    os.close(write)


def test_a_signal_is_an_order_and_handlers_are_put_back(orders):
    before = signal.getsignal(signal.SIGTERM)
    with orders.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        assert orders.wait(10)
    assert orders.order == ("signal", "stopped by SIGTERM")
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_supervisors_death_is_an_order(orders):
    read, write = os.pipe()
    with orders.listening(read):
        assert not orders.wait(0.2)
        os.close(write)
        assert orders.wait(10)
    assert orders.order is not None
    assert orders.order.kind == "supervisor"
    os.close(read)


def test_a_late_order_after_the_close_writes_nowhere():
    orders = WorkerStops()
    orders.close()
    read, write = os.pipe()  # most likely under the numbers that the orders had
    orders.give("study", "too late")
    os.set_blocking(read, False)
    with pytest.raises(BlockingIOError):
        os.read(read, 1)
    os.close(read)
    os.close(write)


_TWICE = """
import os, signal, time
from jorge_tune.study.stop import Orders
orders = Orders(lambda: os.write(1, b"at once"))
with orders.listening():
    os.kill(os.getpid(), signal.SIGINT)
    os.write(1, (orders.order.reason + "; ").encode())
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)
"""


def test_a_second_signal_ends_the_process_at_once():
    answer = subprocess.run([sys.executable, "-c", _TWICE], capture_output=True, text=True, check=False, timeout=20)
    assert answer.returncode == 130, answer.stderr
    assert answer.stdout == "stopped by SIGINT; at once"
