"""The one anatomy of the family: gather, refresh, precondition, momentum, graft, decay, write back.

Members differ only in the preconditioner of one side of a block: its state, its refresh, how it is applied and what it
costs (`Preconditioner`). Everything else is `KroneckerOptimizer`'s and the same for all: momentum, grafting, decay,
timetable, stacks, state. A comparison between members is therefore fair, and a reader of one knows all.

Legend: G a gradient block (rows x columns); L, R its left and right preconditioners; P = L G R. A side has `size` rows
and `size` columns; `other` is the block's other dimension. The left side sees gradients (batch, size, other), the
right side sees them transposed.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeAlias, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from jorge_tune.optim import grafting
from jorge_tune.optim.argument_checks import (
    Group,
    check_dtype,
    check_group,
    check_shards,
    place_of,
    plain,
    read_rate,
    refuse_dtensor,
    state_dtype,
    unread,
    usable_gradient,
)
from jorge_tune.optim.loading import Loading, LoadTarget, missing_signs, unwrapped
from jorge_tune.optim.stacks import (
    Block,
    BlockShape,
    SideState,
    Stack,
    build_stacks,
    collapse,
    expose,
    is_due,
    partition,
    pick,
    side_key,
)

Params: TypeAlias = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]

WITHOUT_REFRESHES: Final[dict[str, Any]] = {
    "dampening": 0.0,
    "nesterov": False,
    "graft_betas": (0.9, 0.999),
    "graft_eps": 1e-8,
    "refresh_interval": 1,
    "warm_refreshes": 0,
    "stagger": False,
    "block_size": None,
}
"""Hyperparameters of the family that a member without them has in its groups, at values that change nothing."""

OF_ALL: Final[dict[str, Any]] = {
    "precondition": True,
    "maximize": False,
    "length": "tensor",
    "flatten": 0,
    "embeddings": "grafted",
}
"""Hyperparameters that every member has in its groups, whether or not its constructor takes them."""

CPU_PIECE = 2**20  # entries of a batch of preconditioners, 4 MiB: whole stacks cost page faults and cache misses


class Preconditioner(ABC):
    """Abstract: the part in which the members of the family differ."""

    @abstractmethod
    def _check_member(self, group: Group) -> None:
        """Raise ValueError for a hyperparameter of the member out of its range."""

    @abstractmethod
    def _initial_side(self, size: int, group: Group, dtype: torch.dtype, device: torch.device) -> SideState:
        """State of one side before any gradient, unbatched: tensors by name, "" being the first."""

    def _observes(self, step: int, group: Group) -> bool:
        """Whether the gradient of a parameter's `step` (from 1) enters statistics outside a refresh."""
        return False

    def _observe_side(self, side: SideState, grads: Tensor, group: Group) -> SideState:
        """What gradients (batch, size, other) add to the statistics, where `_observes` says so."""
        raise NotImplementedError

    @abstractmethod
    def _refresh_side(self, side: SideState, grads: Tensor, group: Group) -> SideState:
        """What a refresh changes, given gradients (batch, size, other)."""

    @abstractmethod
    def _apply_side(self, side: SideState, grads: Tensor, group: Group, *, right: bool) -> Tensor:
        """L G, or G R if `right`, for gradients (batch, m, n)."""

    # What a side costs, in floating-point operations.

    @abstractmethod
    def _refresh_cost(self, size: int, other: int, group: Group) -> int:
        """Of one refresh; refreshes are spread over the interval by it."""

    def _apply_cost(self, size: int, other: int, group: Group) -> int:
        """Of one product with the gradient."""
        return 2 * size * size * other

    def _observe_cost(self, size: int, other: int, group: Group) -> int:
        """Of one update of the statistics outside a refresh."""
        return 0

    # How a parameter becomes blocks.

    def _matrix(self, grad: Tensor) -> Tensor:
        """A gradient as the matrix that is cut into blocks, without a copy where the memory allows it."""
        return grad.reshape(collapse(grad.shape))

    def _blocks(self, param: Tensor, group: Group) -> tuple[Block, ...]:
        """The blocks of a parameter; none if it takes the grafted optimizer's step."""
        return partition(param.shape, group["block_size"]) if group["precondition"] else ()

    def _block_refresh_cost(self, shape: BlockShape, group: Group) -> int:
        left = self._refresh_cost(shape.rows, shape.columns, group) if shape.left else 0
        return left + (self._refresh_cost(shape.columns, shape.rows, group) if shape.right else 0)

    def _side_shapes(self, param: Tensor, group: Group) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor of a parameter's sides, by state key."""
        shapes: dict[str, tuple[int, ...]] = {}
        for number, block in enumerate(self._blocks(param, group)):
            for side, size, has in (
                ("left", block.shape.rows, block.shape.left),
                ("right", block.shape.columns, block.shape.right),
            ):
                tensors = self._initial_side(size, group, torch.float32, torch.device("meta")) if has else {}
                shapes.update({side_key(side, number, name): tuple(t.shape) for name, t in tensors.items()})
        return shapes


class Counters(NamedTuple):
    """What an optimizer counted; reading it synchronises with the device."""

    graft_ratio: float | None  # median over parameters of ||grafted step|| / ||direction|| at the last step
    skipped: int  # gradients left out because they were not finite, since construction


class GroupGradients(NamedTuple):
    """The parameters of a group that have a gradient, on one device: gradients in state precision, checked."""

    params: list[Tensor]
    grads: list[Tensor]
    finite: Tensor  # bool, shape (number of parameters,), on the device


class BegunStep(NamedTuple):
    """A group's step, half done: the lengths of the steps are known, the directions are not.

    `chosen` and `tables` are the places of the preconditioned parameters and of the embedding tables with Adam's
    direction; `lengths` and `sizes` (numbers of entries, for mixed lengths) are float64 vectors over both.
    """

    params: list[Tensor]
    grads: list[Tensor]
    finite: list[Tensor] | None
    states: list[dict[str, Any]]
    before: list[list[Tensor]]
    steps: list[Tensor]
    chosen: list[int]
    tables: list[int]
    lengths: Tensor | None = None
    sizes: Tensor | None = None


class KroneckerOptimizer(Optimizer, Preconditioner):
    """Abstract: everything but the preconditioner. See `Jorge` for the arguments and the state."""

    def __init__(self, params: Params, defaults: dict[str, Any]) -> None:
        self._reset()

        defaults = {name: plain(value) for name, value in {**OF_ALL, **defaults}.items()}
        self._names = frozenset(defaults)
        if defaults["lr"] is None:  # each group brings its own
            del defaults["lr"]

        self._is_whole, self._warned = False, set[str]()
        super().__init__(params, defaults)
        self._is_whole = True
        check_shards(self.param_groups, warn=True)
        self._warn_unread(stacklevel=5)

    def _reset(self) -> None:
        """Forget what can be rebuilt: stacks are views of the state, counters belong to this process."""
        self._stacks: dict[int, tuple[object, list[Stack]]] = {}
        self._sizes: dict[tuple[torch.device, tuple[int, ...]], Tensor] = {}
        self._skipped: Tensor | int = 0
        self._graft_ratios: list[Tensor] = []

    # torch's interface.

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, its hyperparameters checked.

        Raises:
            ValueError: a hyperparameter out of its range, none for lr, or a parameter that is complex or sharded.
        """
        if "lr" not in self.defaults and isinstance(param_group, dict) and "lr" not in param_group:
            raise ValueError(
                f"param_groups[{len(self.param_groups)}] must have an lr: give it one, or give {type(self).__name__} "
                "an lr for all groups"
            )
        super().add_param_group(param_group)

        is_whole = self.__dict__.get("_is_whole", True)  # the constructor looks at all of its groups in the end
        group = self.param_groups[-1]
        try:
            group.update({name: plain(group[name]) for name in self._names})
            check_group(group)
            self._check_member(group)
            for number, param in enumerate(group["params"]):
                refuse_dtensor(param, place_of(group, len(self.param_groups) - 1, number))
            if is_whole:
                check_shards(self.param_groups, warn=True)
        except ValueError:
            self.param_groups.pop()
            raise
        if is_whole:
            self._warn_unread(stacklevel=3)

    def _warn_unread(self, *, stacklevel: int) -> None:
        """Warn, once of each, of hyperparameters that are not at the class's default and have no effect."""
        for index, group in enumerate(self.param_groups):
            for name, sentence in unread(group, self._class_default):
                if name not in self._warned:
                    self._warned.add(name)
                    warnings.warn(f"param_groups[{index}]: {sentence}", stacklevel=stacklevel)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step for every parameter that has a gradient.

        Args:
            closure: Evaluates the model again and returns the loss; optional.

        Raises:
            ValueError: a sparse gradient, or a parameter whose dtype changed. Nothing was changed.
            FloatingPointError: a non-finite gradient in a group with nonfinite="raise". Nothing was changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()

        # All that can be refused is refused here, before anything changes.
        work = [
            (index, self._gather(index, group, params))
            for index, group in enumerate(self.param_groups)
            for params in _rounds(group["params"])
        ]
        if not self.state:  # FSDP may have wrapped the model since
            check_shards(self.param_groups, warn=False)
        self._warn_unread(stacklevel=5)  # a schedule may change one that has no effect; torch wraps a step twice

        rates = [read_rate(group["lr"]) for group in self.param_groups]
        self._graft_ratios = []
        for phase in _phases(work):
            begun = [self._begin(index, self.param_groups[index], gathered) for index, gathered in phase]
            totals = grafting.length_totals([(part.lengths, part.sizes) for part in begun])
            for (index, _), part in zip(phase, begun, strict=True):
                self._finish(index, self.param_groups[index], part, rates[index], totals)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load; every state tensor keeps the dtype it was saved with, whatever the parameter's.

        Hooks that are registered for loading run first; the state is checked as they leave it. A state that an older
        version saved takes the class's default of what it lacks, and a warning says so.

        Raises:
            ValueError: the state is another optimizer's, of other shapes, block size or rank, or holds a value out of
                its range. Nothing was changed.
        """
        loading = Loading(
            LoadTarget(self.param_groups, self._names, self._class_default, self._check_member, self._side_shapes)
        )
        last = self.register_load_state_dict_pre_hook(loading)
        try:
            super().load_state_dict(state_dict)
        finally:
            last.remove()
        if loading.filled:
            taken = ", ".join(f"{name}={value!r}" for name, value in loading.filled.items())
            warnings.warn(
                f"the state was saved before {type(self).__name__} had all of its hyperparameters: {taken} is used",
                stacklevel=2,
            )

    def _class_default(self, name: str) -> Any:
        """The constructor's default of a hyperparameter; this optimizer's own where that is not a plain value."""
        defaults = _constructor_defaults(type(self))
        return defaults[name] if name in defaults else self.defaults[name]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_names": self._names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        unwrapped(state["state"])
        super().__setstate__(state)
        added = {**_constructor_defaults(type(self)), **OF_ALL}
        for name in ("lr", "preset"):
            added.pop(name, None)
        for values in (self.defaults, *self.param_groups):  # pickled by an older version
            for name, value in added.items():
                values.setdefault(name, value)
        names = self.__dict__.get("_names", {"lr", *self.defaults})
        self._names = frozenset({*names, *added} - {"differentiable"})
        for group in self.param_groups:
            for param in group["params"]:
                own = self.state.get(param, {})
                own.update(missing_signs(own, self._side_shapes(param, group), param.device))
        self._warned = self.__dict__.get("_warned", set())
        self._reset()

    def read_counters(self) -> Counters:
        """The last step's graft ratio and the number of skipped gradients; synchronises with the device."""
        ratios = [r.cpu() for r in self._graft_ratios]
        median = float(torch.cat(ratios).median()) if ratios else None
        return Counters(median, int(self._skipped))

    @torch.no_grad()
    def preconditioned(self, gradients: Mapping[Tensor, Tensor]) -> dict[Tensor, Tensor]:
        """P = L G R of any gradients, with the preconditioners as they are; nothing is refreshed or changed.

        Args:
            gradients: By parameter, each of its parameter's shape. Parameters that have no preconditioner, or none
                yet, are left out of the result.

        Shape:
            As the gradients, in the state's dtype.
        """
        groups = {param: group for group in self.param_groups for param in group["params"]}
        found = {}
        for param, grad in gradients.items():
            blocks = self._blocks(param, groups[param])
            own = self.state.get(param, {})
            if not blocks or "momentum" not in own:
                continue
            matrix = self._matrix(grad.to(state_dtype(param)))
            result = torch.empty_like(matrix)
            for number, block in enumerate(blocks):
                piece = block.view(matrix).unsqueeze(0)
                for side in ("left", "right"):
                    tensors = _side_of(own, side, number)
                    if tensors:
                        piece = self._apply_side(tensors, piece, groups[param], right=side == "right")
                block.view(result).copy_(piece[0])
            found[param] = result.reshape(param.shape)
        return found

    # One step of one group.

    def _masks(self, device: torch.device) -> bool:
        """Whether non-finite gradients are masked on the device, so that the host need not know of them."""
        return device.type != "cpu"

    def _gather(self, index: int, group: Group, params: list[Tensor]) -> GroupGradients:
        """Check the gradients; nothing is changed."""
        places = [f"param_groups[{index}], parameter of shape {tuple(p.shape)}" for p in params]
        grads = [usable_gradient(p, place) for p, place in zip(params, places, strict=True)]
        if group["maximize"]:
            grads = list(torch._foreach_neg(grads))
        finite = torch.isfinite(grafting.norms(grads))
        for p, grad, place in zip(params, grads, places, strict=True):
            check_dtype(self.state.get(p, {}), grad, place)
        if group["nonfinite"] == "raise" and not all(keep := finite.tolist()):
            raise FloatingPointError(f"{places[keep.index(False)]}: the gradient is not finite")
        return GroupGradients(params, grads, finite)

    def _skip(self, group: Group, gathered: GroupGradients) -> tuple[list[Tensor], list[Tensor], list[Tensor] | None]:
        """Leave non-finite gradients out on the CPU; elsewhere make them zero, with a flag for each parameter."""
        params, grads, finite = gathered
        if group["nonfinite"] == "raise":
            return params, grads, None

        if self._masks(params[0].device):
            self._skipped = self._skipped + (~finite).sum()
            flags = list(finite.unbind())
            return params, [torch.where(f, g, 0.0) for f, g in zip(flags, grads, strict=True)], flags

        keep = finite.tolist()
        self._skipped = self._skipped + keep.count(False)
        for p, grad, kept in zip(params, grads, keep, strict=True):
            if not kept:  # its step count goes on, as it does under a mask
                self._state_of(p, grad, group)["step"] += 1
        return list(itertools.compress(params, keep)), list(itertools.compress(grads, keep)), None

    def _begin(self, index: int, group: Group, gathered: GroupGradients) -> BegunStep:
        """The first half of a step: the grafted optimizer's steps, and from them the length of each parameter's."""
        params, grads, finite = self._skip(group, gathered)
        states = [self._state_of(p, grad, group) for p, grad in zip(params, grads, strict=True)]
        before = grafting.copies(params, states) if finite is not None else []
        for state in states:
            state["step"] += 1

        # A parameter without preconditioner takes the grafted optimizer's step itself; Adam's tables do not.
        steps = grafting.grafted_steps_(states, grads, group) if params else []
        tables = [i for i, p in enumerate(params) if grafting.is_adam_table(group, p)]
        chosen = [i for i, state in enumerate(states) if "momentum" in state]
        begun = BegunStep(params, grads, finite, states, before, steps, chosen, tables)
        own = chosen + tables
        if not own or group["graft"] == "none":
            return begun

        lengths = grafting.norms([steps[i] for i in own])
        if group["length"] == "tensor":
            return begun._replace(lengths=lengths)

        lengths = grafting.mean_lengths_([states[i] for i in own], lengths)
        sizes = self._numels([params[i] for i in own])
        if finite is not None:  # as if those left out were not there
            flags = torch.stack([finite[i] for i in own])
            lengths, sizes = torch.where(flags, lengths, 0.0), torch.where(flags, sizes, 0.0)
        return begun._replace(lengths=lengths, sizes=sizes)

    def _numels(self, params: list[Tensor]) -> Tensor:
        """Numbers of entries, float64; kept, since a GPU would wait for each copy from the host."""
        key = (params[0].device, tuple(param.numel() for param in params))
        if key not in self._sizes:
            self._sizes[key] = torch.tensor(key[1], dtype=torch.float64, device=key[0])
        return self._sizes[key]

    def _finish(
        self, index: int, group: Group, begun: BegunStep, lr: float, totals: grafting.LengthTotals | None
    ) -> None:
        """The second half: each parameter's direction at its length, then the update of the weights."""
        params, grads, finite, states, before, steps, chosen, tables, lengths, sizes = begun
        if not params:
            return
        directions = list(steps)
        moved: list[Tensor] = []

        # P = L G R, with momentum.
        if chosen:
            flags = None if finite is None else {params[i]: finite[i] for i in chosen}
            ps = self._precondition(index, group, {params[i]: grads[i] for i in chosen}, flags)
            moved = grafting.with_momentum_([states[i] for i in chosen], ps, group)
            if group["flatten"]:
                moved = grafting.flattened(moved, group["flatten"])
        if tables:
            moved = moved + grafting.table_directions_([states[i] for i in tables], [grads[i] for i in tables], group)

        # The grafted length.
        if lengths is not None:
            if sizes is not None:
                assert totals is not None
                lengths = grafting.mixed_lengths(lengths, sizes, totals.on(lengths.device))
            moved, ratios = grafting.scale_to(moved, lengths)
            self._graft_ratios.append(ratios)
        for i, direction in zip(chosen + tables, moved, strict=True):
            directions[i] = direction

        grafting.descend_(params, directions, lr=lr, weight_decay=group["weight_decay"])
        if finite is not None:
            grafting.restore_(params, states, before, finite)

    def _state_of(self, param: Tensor, grad: Tensor, group: Group) -> dict[str, Any]:
        """A parameter's state; the first gradient creates its momenta. (Preconditioners come with their stack.)"""
        state: dict[str, Any] = self.state[param]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.int64)
            if self._blocks(param, group):
                state["momentum"] = torch.zeros_like(grad)
        for name in grafting.graft_buffers(group, param):  # also where a group's settings were changed later
            if f"graft.{name}" not in state:
                state[f"graft.{name}"] = torch.zeros_like(grad)
        if "graft.length" not in state and grafting.keeps_length(group, param, "momentum" in state):
            state["graft.length"] = torch.zeros((), dtype=torch.float64, device=grad.device)
        return state

    def _precondition(
        self, index: int, group: Group, grads: dict[Tensor, Tensor], finite: dict[Tensor, Tensor] | None
    ) -> list[Tensor]:
        """Refresh the blocks that are due, then P = L G R for each parameter, in its shape."""
        matrices = {param: self._matrix(grad) for param, grad in grads.items()}
        results: dict[Tensor, Tensor] = {}
        for stack, rows in self._work(index, group, matrices):
            stacked = stack.gather(rows, matrices)
            flags = None if finite is None else torch.stack([finite[stack.entries[row].param] for row in rows])
            expose(stack, rows, self.state)
            self._update_stack(stack, rows, stacked, flags, group)
            for side in stack.sides:
                stacked = self._apply_side(stack.read(side, rows), stacked, group, right=side == "right")

            for piece, row in zip(stacked.unbind(), rows, strict=True):
                param, block = stack.entries[row].param, stack.entries[row].block
                if piece.shape == matrices[param].shape:
                    results[param] = piece
                    continue
                if param not in results:
                    results[param] = torch.empty_like(matrices[param])
                block.view(results[param]).copy_(piece)
        return [results[param].reshape(param.shape) for param in grads]

    def _work(self, index: int, group: Group, grads: dict[Tensor, Tensor]) -> Iterator[tuple[Stack, list[int]]]:
        """The rows that have a gradient, stack by stack; on the CPU in pieces whose temporaries stay in its caches."""
        for stack in self._stacks_of(index, group):
            rows = [row for row, entry in enumerate(stack.entries) if entry.param in grads]
            length = len(rows)
            if stack.entries[0].param.device.type == "cpu":
                length = max(1, CPU_PIECE // max(stack.shape.rows, stack.shape.columns) ** 2)
            for start in range(0, len(rows), max(1, length)):
                yield stack, rows[start : start + length]

    def _stacks_of(self, index: int, group: Group) -> list[Stack]:
        """The group's stacks, built anew when its parameters or its timetable changed."""
        params = [p for p in dict.fromkeys(group["params"]) if p.requires_grad or p.grad is not None or p in self.state]
        key = ([id(p) for p in params], group["refresh_interval"], group["stagger"], group["block_size"])
        if index not in self._stacks or self._stacks[index][0] != key:
            stacks = build_stacks(
                [(p, self._blocks(p, group)) for p in params],
                self.state,
                slots=group["refresh_interval"] if group["stagger"] else 1,
                cost=lambda shape: self._block_refresh_cost(shape, group),
                initial=lambda size, p: self._initial_side(size, group, state_dtype(p), p.device),
            )
            self._stacks[index] = (key, stacks)
        return self._stacks[index][1]

    def _update_stack(self, stack: Stack, rows: list[int], grads: Tensor, finite: Tensor | None, group: Group) -> None:
        """Statistics of all `rows`, then the refresh of those that are due."""
        timetable = group["refresh_interval"], group["warm_refreshes"]
        entries = [stack.entries[row] for row in rows]
        steps = [int(self.state[entry.param]["step"]) for entry in entries]
        seen = [i for i, step in enumerate(steps) if self._observes(step, group)]
        due = [i for i, entry in enumerate(entries) if is_due(steps[i], entry.slot, *timetable)]

        for change, places in ((self._observe_side, seen), (self._refresh_side, due)):
            if not places:
                continue
            part = pick(grads, places)
            for side in stack.sides:
                here = [rows[i] for i in places]
                new = change(stack.read(side, here), part if side == "left" else part.mT, group)
                stack.write(side, here, new, None if finite is None else pick(finite, places))


def _side_of(own: Mapping[str, Any], side: str, number: int) -> SideState:
    """One side's tensors in a parameter's state, by name, with a leading dimension of 1."""
    key = side_key(side, number, "")
    return {
        name.removeprefix(key).removeprefix("."): tensor.unsqueeze(0)
        for name, tensor in own.items()
        if name == key or name.startswith(f"{key}.")
    }


@functools.cache
def _constructor_defaults(kind: type) -> dict[str, Any]:
    parameters = inspect.signature(kind).parameters.values()
    plain_kinds = (bool, int, float, str, tuple, type(None))
    return {p.name: p.default for p in parameters if isinstance(p.default, plain_kinds)}


def _phases(work: list[tuple[int, GroupGradients]]) -> Iterator[list[tuple[int, GroupGradients]]]:
    """The work in parts that name no parameter twice: its second step begins when its first one is done."""
    phase: list[tuple[int, GroupGradients]] = []
    seen: set[Tensor] = set()
    for index, gathered in work:
        if not seen.isdisjoint(gathered.params):
            yield phase
            phase, seen = [], set()
        phase.append((index, gathered))
        seen.update(gathered.params)
    yield phase


def _rounds(params: list[Tensor]) -> list[list[Tensor]]:
    """The parameters that have a gradient, device by device; one that is named twice has a second step, as in torch."""
    named: Counter[Tensor] = Counter()
    together: dict[tuple[int, torch.device], list[Tensor]] = {}
    for param in params:
        if param.grad is not None:
            together.setdefault((named[param], param.device), []).append(param)
            named[param] += 1
    return [together[key] for key in sorted(together, key=lambda key: key[0])]
