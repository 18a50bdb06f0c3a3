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
    place_in,
    place_of,
    plain,
    read_rate,
    refuse_dtensor,
    state_dtype,
    unread,
    usable_gradient,
)
from jorge_tune.optim.flat import Member
from jorge_tune.optim.flat_bundle import FlatBundle
from jorge_tune.optim.flat_step import FlatGradients, FlatStep
from jorge_tune.optim.loading import Loading, LoadTarget, missing_signs, unwrapped
from jorge_tune.optim.preconditioner import Preconditioner
from jorge_tune.optim.refreshes import StackUpdate, update_stacks
from jorge_tune.optim.stacks import Stack, build_stacks, expose, kept_side

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


class Counters(NamedTuple):
    """What an optimizer counted; reading it synchronises with the device."""

    graft_ratio: float | None  # median over parameters of ||grafted step|| / ||direction|| at the last step
    skipped: int  # gradients left out because they were not finite, since construction


class ListedGradients(NamedTuple):
    """The parameters of a group that have a gradient, on one device: gradients in state precision, checked."""

    group_index: int
    params: list[Tensor]
    grads: list[Tensor]
    finite: list[bool]


class ListedStep(NamedTuple):
    """A group's step, half done: the lengths of the steps are known, the directions are not.

    `chosen` and `tables` are the places of the preconditioned parameters and of the embedding tables with Adam's
    direction; `lengths` and `sizes` (numbers of entries, for mixed lengths) are float64 vectors over both.
    """

    group_index: int
    params: list[Tensor]
    grads: list[Tensor]
    states: list[dict[str, Any]]
    clock: list[int]
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
        self._bundles: dict[object, FlatBundle] = {}
        self._sizes: dict[tuple[torch.device, tuple[int, ...]], Tensor] = {}
        self._skipped: dict[torch.device, Tensor | int] = {}
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
        work: list[ListedGradients | FlatGradients] = [*self._gather_listed(), *self._gather_flat()]
        if not self.state:  # FSDP may have wrapped the model since
            check_shards(self.param_groups, warn=False)
        self._warn_unread(stacklevel=5)  # a schedule may change one that has no effect; torch wraps a step twice

        rates = [read_rate(group["lr"]) for group in self.param_groups]
        self._graft_ratios = []
        for phase in _phases(work):
            begun = [self._begin(gathered) for gathered in phase]
            totals = grafting.length_totals([(part.lengths, part.sizes) for part in begun])
            for part in begun:
                if isinstance(part, FlatStep):
                    part.finish(rates, totals)
                    self._graft_ratios += [] if part.ratios is None else [part.ratios]
                else:
                    self._finish(part, rates[part.group_index], totals)
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
        return Counters(median, sum(map(int, self._skipped.values())))

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
            matrix = grad.to(state_dtype(param)).reshape(self._matrix_shape(param))
            result = torch.empty_like(matrix)
            for number, block in enumerate(blocks):
                piece = block.view(matrix).unsqueeze(0)
                for side in ("left", "right"):
                    tensors = kept_side(own, side, number)
                    if tensors:
                        piece = self._apply_side(tensors, piece, groups[param], right=side == "right")
                block.view(result).copy_(piece[0])
            found[param] = result.reshape(param.shape)
        return found

    # Gradients.

    def _masks(self, device: torch.device) -> bool:
        """Whether non-finite gradients are masked on the device, so that the host need not know of them."""
        return device.type != "cpu"

    def _is_exact(self, device: torch.device) -> bool:
        """Whether momenta and weights take torch's own roundings."""
        return device.type == "cpu"

    def _gather_listed(self) -> list[ListedGradients]:
        """Check the gradients of parameters that are worked as lists; nothing is changed."""
        gathered = []
        for index, group in enumerate(self.param_groups):
            for params in _rounds(p for p in group["params"] if not self._masks(p.device)):
                grads = [usable_gradient(p, index) for p in params]
                if group["maximize"]:
                    grads = list(torch._foreach_neg(grads))
                finite = torch.isfinite(grafting.norms(grads)).tolist()
                for p, grad in zip(params, grads, strict=True):
                    check_dtype(self.state.get(p, {}), grad.dtype, p, index)
                _refuse_non_finite(group, index, params, finite)
                gathered.append(ListedGradients(index, params, grads, finite))
        return gathered

    def _gather_flat(self) -> list[FlatGradients]:
        """The same for parameters that lie flat; the host waits only where nonfinite="raise" asks for it."""
        gathered = []
        for bundle, named in self._bundles_of():
            grads = [usable_gradient(p, m.group_index, cast=False) if p in named else None for p, m in bundle.pairs]
            there = [grad for grad in grads if grad is not None]
            is_whole = len(there) == len(grads)
            flags = None if is_whole else bundle.vector([g is not None for g in grads], torch.bool)
            finite = grafting.norms(there) < torch.inf
            if bundle.group["nonfinite"] == "raise":
                here = [(p, m.group_index) for (p, m), g in zip(bundle.pairs, grads, strict=True) if g is not None]
                _refuse_non_finite(bundle.group, here[0][1], [p for p, _ in here], finite.tolist())
            elif is_whole:
                flags = finite
            else:
                assert flags is not None
                places = bundle.vector([i for i, grad in enumerate(grads) if grad is not None], torch.int64)
                flags = flags.index_put((places,), finite)
            gathered.append(FlatGradients(bundle, grads, finite, flags))
        return gathered

    def _bundles_of(self) -> Iterator[tuple[FlatBundle, dict[Tensor, None]]]:
        """Bundles with their parameters that have a gradient; a parameter that is named twice has a second round."""
        members: dict[tuple[Any, ...], dict[Tensor, int]] = {}
        rounds: dict[tuple[Any, ...], list[dict[Tensor, None]]] = {}
        for index, group in enumerate(self.param_groups):
            shared = tuple(_hashable(group[name]) for name in self._shared_names)
            for param in group["params"]:
                if self._masks(param.device) and (param.grad is not None or param in self.state):
                    key = (param.device, param.dtype, *shared)
                    members.setdefault(key, {})[param] = index
                    if param.grad is not None:
                        known = rounds.setdefault(key, [])
                        number = next((n for n, params in enumerate(known) if param not in params), len(known))
                        known[number:] = known[number:] or [{}]
                        known[number][param] = None
        known_bundles, self._bundles = self._bundles, {}
        for key, named in rounds.items():
            bundle = self._bundle(members[key], known_bundles)
            yield from ((bundle, params) for params in named)

    def _bundle(self, indices: dict[Tensor, int], known: dict[object, FlatBundle]) -> FlatBundle:
        """The bundle of these parameters, built anew when they, their blocks, buffers or timetable changed."""
        own = {index: self._shaping(self.param_groups[index]) for index in set(indices.values())}
        signature = tuple((id(param), index, own[index]) for param, index in indices.items())
        bundle = known.get(signature)
        if bundle is None or not bundle.is_whole(self.state):
            for param, index in indices.items():
                check_dtype(self.state.get(param, {}), state_dtype(param), param, index)
            members = [self._member(param, index) for param, index in indices.items()]
            bundle = FlatBundle(self, self.param_groups, members, self.state)
        self._bundles[signature] = bundle
        return bundle

    def _shaping(self, group: Group) -> tuple[object, ...]:
        """What the blocks, buffers and slots of a group's parameters follow from; the rest may change at any step."""
        names = ("precondition", "block_size", "refresh_interval", "stagger", "graft", "embeddings", "length", "rank")
        return (*(group.get(name) for name in names), group["momentum"] > 0)

    def _member(self, param: Tensor, index: int) -> Member:
        group = self.param_groups[index]
        blocks = self._blocks(param, group)
        section = 0 if blocks else 1 if grafting.is_adam_table(group, param) else 2
        return Member(param, index, self._matrix_shape(param) if blocks else (0, 0), blocks, section)

    @functools.cached_property
    def _shared_names(self) -> list[str]:
        """Hyperparameters that parameters must have in common to lie flat together."""
        return sorted(self._names - {"lr", "weight_decay", "precondition"})

    # One step: momenta and directions, then weights.

    def _begin(self, gathered: ListedGradients | FlatGradients) -> ListedStep | FlatStep:
        """The first half of a step: up to the length of each parameter's."""
        if isinstance(gathered, ListedGradients):
            return self._begin_listed(gathered)
        if gathered.bundle.group["nonfinite"] == "skip":
            device, skipped = gathered.bundle.device, (~gathered.finite).sum()
            self._skipped[device] = self._skipped.get(device, 0) + skipped
        return FlatStep(gathered, is_exact=self._is_exact(gathered.bundle.device))

    def _begin_listed(self, gathered: ListedGradients) -> ListedStep:
        """The grafted optimizer's steps, and from them the lengths. Gradients that are not finite are left out."""
        index, group = gathered.group_index, self.param_groups[gathered.group_index]
        for p, grad in zip(gathered.params, gathered.grads, strict=True):
            self._state_of(p, grad, group)["step"] += 1  # also where it is left out, as under a mask
        device = gathered.params[0].device
        self._skipped[device] = self._skipped.get(device, 0) + gathered.finite.count(False)
        params = list(itertools.compress(gathered.params, gathered.finite))
        grads = list(itertools.compress(gathered.grads, gathered.finite))
        states = [self.state[p] for p in params]
        clock = [int(state["step"]) for state in states]

        # A parameter without preconditioner takes the grafted optimizer's step itself; Adam's tables do not.
        buffers = _graft_buffers(states)
        steps = grafting.grafted_steps_(buffers, grads, group, grafting.listed(clock)) if params else []
        tables = [i for i, p in enumerate(params) if grafting.is_adam_table(group, p)]
        chosen = [i for i, state in enumerate(states) if "momentum" in state]
        begun = ListedStep(index, params, grads, states, clock, steps, chosen, tables)
        own = chosen + tables
        if not own or group["graft"] == "none":
            return begun

        lengths = grafting.norms([steps[i] for i in own])
        if group["length"] == "tensor":
            return begun._replace(lengths=lengths)
        means = [states[i]["graft.length"] for i in own]
        lengths = grafting.mean_lengths_(means, lengths, [clock[i] for i in own])
        return begun._replace(lengths=lengths, sizes=self._numels([params[i] for i in own]))

    def _numels(self, params: list[Tensor]) -> Tensor:
        """Numbers of entries, float64; kept, since a GPU would wait for each copy from the host."""
        key = (params[0].device, tuple(param.numel() for param in params))
        if key not in self._sizes:
            self._sizes[key] = torch.tensor(key[1], dtype=torch.float64, device=key[0])
        return self._sizes[key]

    def _finish(self, begun: ListedStep, lr: float, totals: grafting.LengthTotals | None) -> None:
        """The second half: each parameter's direction at its length, then the update of the weights."""
        index, params, grads, states, clock, steps, chosen, tables, lengths, sizes = begun
        if not params:
            return
        group = self.param_groups[index]
        directions = list(steps)
        moved: list[Tensor] = []

        # P = L G R, with momentum.
        if chosen:
            ps = self._precondition(begun, {params[i]: grads[i] for i in chosen})
            terms = grafting.listed([clock[i] for i in chosen])
            moved = grafting.with_momentum_([states[i]["momentum"] for i in chosen], ps, group, terms)
            if group["flatten"]:
                moved = grafting.flattened(moved, group["flatten"])
        if tables:
            buffers, terms = _graft_buffers([states[i] for i in tables]), grafting.listed([clock[i] for i in tables])
            moved = moved + grafting.table_directions_(buffers, [grads[i] for i in tables], group, terms)

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

    def _precondition(self, begun: ListedStep, grads: dict[Tensor, Tensor]) -> list[Tensor]:
        """Refresh the blocks that are due, then P = L G R for each parameter, in its shape."""
        group = self.param_groups[begun.group_index]
        clock = dict(zip(begun.params, begun.clock, strict=True))
        matrices = {param: grad.reshape(self._matrix_shape(param)) for param, grad in grads.items()}
        results: dict[Tensor, Tensor] = {}
        for stack, rows in self._work(begun.group_index, group, matrices):
            stacked = stack.gather(rows, matrices)
            expose(stack, rows, self.state)
            steps = [clock[stack.entries[row].param] for row in rows]
            gathered = functools.partial(_itself, stacked)
            update_stacks(self, [StackUpdate(stack=stack, rows=rows, steps=steps, group=group, gradients=gathered)])
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


@functools.cache
def _constructor_defaults(kind: type) -> dict[str, Any]:
    parameters = inspect.signature(kind).parameters.values()
    plain_kinds = (bool, int, float, str, tuple, type(None))
    return {p.name: p.default for p in parameters if isinstance(p.default, plain_kinds)}


_Gathered: TypeAlias = "ListedGradients | FlatGradients"


def _phases(work: list[_Gathered]) -> Iterator[list[_Gathered]]:
    """The work in parts that name no parameter twice: its second step begins when its first one is done."""
    phase: list[_Gathered] = []
    seen: set[Tensor] = set()
    for gathered in work:
        params = gathered.params if isinstance(gathered, ListedGradients) else [p for p, _ in gathered.bundle.pairs]
        if not seen.isdisjoint(params):
            yield phase
            phase, seen = [], set()
        phase.append(gathered)
        seen.update(params)
    yield phase


def _rounds(params: Iterable[Tensor]) -> list[list[Tensor]]:
    """The parameters that have a gradient, device by device; one that is named twice has a second step, as in torch."""
    named: Counter[Tensor] = Counter()
    together: dict[tuple[int, torch.device], list[Tensor]] = {}
    for param in params:
        if param.grad is not None:
            together.setdefault((named[param], param.device), []).append(param)
            named[param] += 1
    return [together[key] for key in sorted(together, key=lambda key: key[0])]


def _refuse_non_finite(group: Group, index: int, params: list[Tensor], finite: list[bool]) -> None:
    if group["nonfinite"] == "raise" and not all(finite):
        raise FloatingPointError(f"{place_in(index, params[finite.index(False)])}: the gradient is not finite")


def _graft_buffers(states: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The grafted optimizer's buffers of some parameters, by name, where all of them have them."""
    names = [key for key in states[0] if key.startswith("graft.")] if states else []
    return {name.removeprefix("graft."): [state.get(name) for state in states] for name in names}


def _hashable(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _itself(value: Tensor) -> Tensor:
    return value
