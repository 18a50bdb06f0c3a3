"""Random numbers of their own for code that draws from the global generators, as data sets and collate functions do."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

_LARGEST = 2**32


class RandomStream:
    """torch's (on the CPU), numpy's and Python's global random numbers, as they are inside its `with` blocks.

    From one block to the next it goes on where it was; what is drawn outside changes nothing inside, and the other way
    round.

    Args:
        entropy: Numbers that decide the stream, the seed and the epoch say.
    """

    def __init__(self, *entropy: int) -> None:
        self.seed = stream_seed(*entropy)
        self._own: tuple[Any, ...] | None = None
        self._outside: list[tuple[Any, ...]] = []

    def __enter__(self) -> RandomStream:
        self._outside.append(_states())
        if self._own is not None:
            _restore(self._own)
        else:
            torch.default_generator.manual_seed(self.seed)
            np.random.seed(self.seed % _LARGEST)
            random.seed(self.seed)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._own = _states()
        _restore(self._outside.pop())


def stream_seed(*entropy: int) -> int:
    """A seed of 63 bits; numbers that differ in anything give seeds that have nothing to do with each other."""
    high, low = np.random.SeedSequence((len(entropy), *entropy)).generate_state(2, np.uint32)
    return int(high >> 1) << 32 | int(low)


def _states() -> tuple[Any, ...]:
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def _restore(states: tuple[Any, ...]) -> None:
    of_torch, of_numpy, of_python = states
    torch.set_rng_state(of_torch)
    np.random.set_state(of_numpy)
    random.setstate(of_python)
