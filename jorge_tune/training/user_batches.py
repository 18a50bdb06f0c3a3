"""Batches of the user's own, read epoch by epoch: seeded from (seed, epoch), checked for their number, moved."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Final

import torch
from torch.utils.data import DataLoader, Dataset

from jorge_tune.errors import InputError
from jorge_tune.training.factories import in_words
from jorge_tune.training.loader import leave_signals_to_parent
from jorge_tune.training.random_stream import RandomStream

_PARTS: Final = ((), ("sampler",), ("batch_sampler",), ("batch_sampler", "sampler"), ("dataset",))


class UserBatches:
    """The batches of one part of a task of the user's own.

    Args:
        batches: With a length, and readable again; an iterator is read on from epoch to epoch.
        name: The attribute of the task, for messages.
        move: Moves one batch to the device.
        samples: How many samples a batch has.
        seed: Of the run.
        batch_size: What the recipe says.

    Raises:
        InputError: they have no length, are empty, or are no batches.
    """

    def __init__(
        self,
        batches: Iterable[Any],
        name: str,
        move: Callable[[Any], Any],
        samples: Callable[[Any], int | None],
        *,
        seed: int,
        batch_size: int,
    ) -> None:
        self._batches, self._name, self._move, self._seed = batches, name, move, seed
        self.batch_size, self._samples = batch_size, samples
        self._length = _length_of(batches, name)
        self.workers: int = getattr(batches, "num_workers", 0) if isinstance(batches, DataLoader) else 0
        self.is_stateful = isinstance(batches, Iterator)
        self._looked_at: list[Any] = []  # of an iterator, before the first epoch
        if isinstance(batches, DataLoader) and self.workers:
            batches.worker_init_fn = _WorkerStart(batches.worker_init_fn)

    def __len__(self) -> int:
        return self._length

    @property
    def remembers_draws(self) -> bool:
        """Whether what a batch holds may depend on the epochs that this process has read before."""
        return self.is_stateful or (self.workers > 0 and bool(getattr(self._batches, "persistent_workers", False)))

    def is_full(self, batch: Any) -> bool:
        """Whether a batch has as many samples as the recipe says, as far as can be told."""
        size = self._samples(batch)
        return size is None or size >= self.batch_size

    def is_smaller(self, batch: Any, other: Any) -> bool:
        """Whether a batch has fewer samples than another one, as far as can be told."""
        size, than = self._samples(batch), self._samples(other)
        return size is not None and than is not None and size < than

    def epoch(self, number: int = 0, start: int = 0) -> Generator[Any, None, None]:
        """The batches of epoch `number` from batch `start` on; those before it are read and left out.

        Raises:
            InputError: there are fewer or more than the length said.
            TrainingError: reading one of them failed.
        """
        stream = RandomStream(self._seed, number)
        read = self._reader(number, stream)
        for index in range(0 if self.is_stateful else start):
            self._draw(read, stream, number, index)
        for index in range(start, self._length):
            yield self._move(self._draw(read, stream, number, index))
        if not self.is_stateful and self._is_there_more(read, stream, number):
            raise InputError(
                f"{self._name}: its length is {self._length}, but epoch {number} has more batches; let len() be the "
                "number of batches"
            )

    def at(self, number: int, index: int) -> Any:
        """One batch of epoch `number`: the one that `epoch` gives, unless they are an iterator's."""
        return next(self.epoch(number, index))

    def first(self) -> Any:
        """The first batch, as a look beforehand; no epoch lacks it."""
        if not self.is_stateful:
            return self.at(0, 0)
        if not self._looked_at:
            stream = RandomStream(self._seed, 0)
            self._looked_at.append(self._draw(self._reader(0, stream), stream, 0, 0))
        return self._move(self._looked_at[0])

    def close(self) -> None:
        """Let the batches go; loader processes end with their last iterator."""
        self._batches = ()

    def _reader(self, number: int, stream: RandomStream) -> Iterator[Any]:
        with in_words(f"{self._name}: reading epoch {number}"), stream:
            _seed_generators(self._batches, stream.seed, number)
            read = iter(self._batches)
        return itertools.chain(self._taken_back(), read) if self.is_stateful else read

    def _taken_back(self) -> Iterator[Any]:
        while self._looked_at:
            yield self._looked_at.pop()

    def _draw(self, read: Iterator[Any], stream: RandomStream, number: int, index: int) -> Any:
        with in_words(f"{self._name}: batch {index} of epoch {number}"), stream:
            batch = next(read, _END)
        if batch is _END:
            once = "can it be read only once? " if index == 0 and number else ""
            raise InputError(
                f"{self._name}: its length is {self._length}, but epoch {number} had only {index} batches; {once}"
                "let len() be the number of batches, and let iter() start anew"
            )
        return batch

    def _is_there_more(self, read: Iterator[Any], stream: RandomStream, number: int) -> bool:
        with in_words(f"{self._name}: the end of epoch {number}"), stream:
            return next(read, _END) is not _END


_END = object()


def _length_of(batches: Iterable[Any], name: str) -> int:
    """How many batches an epoch has.

    Raises:
        InputError: that is not known, or there are none, or these are samples.
    """
    if isinstance(batches, Dataset) and not hasattr(batches, "__iter__"):
        raise InputError(f"{name}: must be batches, got a data set of single samples; wrap it in a DataLoader")
    if not isinstance(batches, Iterable):
        raise InputError(f"{name}: must be batches to iterate over, got {type(batches).__name__}")
    try:
        length = len(batches)  # type: ignore[arg-type]
    except TypeError as error:
        raise InputError(
            f"{name}: {type(batches).__name__} has no length; give it a __len__ that returns the batches of an epoch"
        ) from error
    if length < 1:
        raise InputError(f"{name}: must have at least one batch, got none")
    return length


def _seed_generators(batches: Any, seed: int, epoch: int) -> None:
    """Seed the generators of a loader and of its parts, and tell those the epoch that want to know it."""
    for path in _PARTS:
        part = batches
        for attribute in path:
            part = getattr(part, attribute, None)
        if isinstance(generator := getattr(part, "generator", None), torch.Generator):
            generator.manual_seed(seed)
        if callable(set_epoch := getattr(part, "set_epoch", None)):
            set_epoch(epoch)


class _WorkerStart:
    """What a loader's process does first: leave signals to its parent, as Ctrl-C reaches every process."""

    def __init__(self, own: Callable[[int], None] | None) -> None:
        self._own = own

    def __call__(self, worker: int) -> None:
        leave_signals_to_parent(worker)
        if self._own is not None:
            self._own(worker)
