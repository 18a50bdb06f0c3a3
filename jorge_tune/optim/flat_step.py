"""A step of parameters that lie flat (flat.py), without waiting for the device: on everything but the CPU.

The anatomy is `KroneckerOptimizer`'s. What differs is how it is held: momenta in rows, one vector for all lengths, and
a mask in place of leaving a parameter out. A gradient that is not finite becomes zeros, and the numbers that multiply
its parameter's momenta and weight become 1, so that nothing of it changes. Preconditioners need no mask where a refresh
by zeros changes nothing.

    flags       (P,) bool: the gradient is there and finite; None where the host knows that all are
    exact       torch's own roundings (on the CPU, so that a mask can be compared with leaving out, bit by bit);
                otherwise fewer passes through memory
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from jorge_tune.optim import grafting
from jorge_tune.optim.flat import ALL, OTHERS, PRECONDITIONED, TABLES, WITH_LENGTH, ParameterClass, Range
from jorge_tune.optim.flat_bundle import Batch, FlatBundle, FlatStack
from jorge_tune.optim.refreshes import StackUpdate, update_stacks
from jorge_tune.optim.stacks import pick

BIG: Final = 2**20  # entries from which on a tensor is copied and masked by a launch of its own: memory takes as long
LEAST_DECAY: Final = 1e-8  # below, u / wd could leave float32's range


class RateRun(NamedTuple):
    """Places whose weights are updated alike, and how: see `FlatStep._weigh`."""

    places: range
    lr: float
    weight_decay: float
    blends: bool


class FlatGradients(NamedTuple):
    """Gradients in the layout's order (None: the parameter has none), and which are there and finite."""

    bundle: FlatBundle
    grads: list[Tensor | None]
    finite: Tensor  # bool, for each gradient
    flags: Tensor | None  # bool, (P,)

    @property
    def present(self) -> list[bool]:
        """Whether each parameter has a gradient."""
        return [grad is not None for grad in self.grads]


class FlatStep:
    """One step of a bundle, half done: all momenta and directions are new, the weights are not."""

    def __init__(self, gathered: FlatGradients, *, is_exact: bool) -> None:
        self.bundle, self._grads, _, self._flags = gathered
        self._present, self._is_exact = gathered.present, is_exact
        self._layout, self._group = self.bundle.layout, self.bundle.group
        self._steps = self.bundle.count(self._present)
        self._keep_columns: dict[tuple[float, Range], list[Tensor]] = {}
        self.lengths: Tensor | None = None
        self.sizes: Tensor | None = None
        self.ratios: Tensor | None = None
        self._own_norms: Tensor | None = None
        self._zero = self.bundle.constant(0.0, torch.float64)

        self._G = self._gather()
        self._S = grafting.grafted_steps_(self._named("graft.", ALL), self._G, self._group, self._terms(ALL))
        self._directions = self._directed()
        self._measure()

    # Gradients.

    def _gather(self) -> list[Tensor]:
        """The gradients in rows, in state precision; zeros where they are missing or not finite."""
        layout, flags = self._layout, self._flags
        G = layout.empty(ALL, self.bundle.dtype)
        pieces = layout.pieces(G, ALL)
        targets, sources = [], []
        for place, (piece, grad) in enumerate(zip(pieces, self._grads, strict=True)):
            if grad is None:
                piece.zero_()
                continue
            flat = layout.orders[place].flattened(grad)
            if flat is None:
                layout.orders[place].shaped(piece, layout.params[place]).copy_(grad)
            elif flags is not None and self._is_alone(place) and grad.dtype == piece.dtype:
                zero = self.bundle.constant(0.0, piece.dtype)
                torch.where(flags[place], flat, zero, out=piece)
                continue
            else:
                targets.append(piece)
                sources.append(flat)
        if targets:
            torch._foreach_copy_(targets, sources)
        if flags is not None:
            self._mask(G, ~flags)
        if self._group["maximize"]:
            torch._foreach_neg_(G)
        return G

    def _is_alone(self, place: int) -> bool:
        """Whether a gradient is large enough for a launch of its own."""
        param = self._layout.params[place]
        grad = self._grads[place]
        return (
            param.numel() >= BIG
            and grad is not None
            and grad.dtype == self.bundle.dtype
            and self._layout.orders[place].flattened(grad) is not None
        )

    def _mask(self, G: list[Tensor], bad: Tensor) -> None:
        """Zeros for the gradients that are not finite, but for those that are copied alone."""
        for zone, rows in zip(self._layout.zones, G, strict=True):
            column = bad.index_select(0, zone.owners).unsqueeze(1)
            stops = [*zone.starts[1:], rows.numel()]
            first: int | None = None
            for place, start, stop in zip(zone.places, zone.starts, stops, strict=True):
                if not self._is_alone(place):
                    first = start if first is None else first
                if first is not None and (self._is_alone(place) or stop == rows.numel()):
                    last = start if self._is_alone(place) else stop
                    part = slice(first // zone.row, last // zone.row)
                    rows[part].masked_fill_(column[part], 0.0)
                    first = None

    # Momenta and directions.

    def _named(self, prefix: str, sections: Range) -> dict[str, list[Tensor]]:
        """Buffers that cover some sections, by name without the prefix."""
        return {
            name.removeprefix(prefix): self._layout.part(self.bundle.buffers[name], sections, cover)
            for name, cover in self.bundle.covers.items()
            if name.startswith(prefix) and cover[0] <= sections[0] and sections[1] <= cover[1]
        }

    def _terms(self, sections: Range) -> grafting.Terms:
        steps = [self._steps[place] for place in self._layout.places(sections)]

        def keep(weight: float) -> grafting.Operands:
            return weight if self._flags is None else self._kept(weight, sections)

        def spread(values: Sequence[float]) -> grafting.Operands:
            if len(set(values)) <= 1:
                return values[0] if values else 1.0
            whole = [0.0] * len(self._layout.params)
            for place, value in zip(self._layout.places(sections), values, strict=True):
                whole[place] = value
            return self._layout.spread(self.bundle.vector(whole, self.bundle.dtype), sections)

        return grafting.Terms(steps, keep, spread, self._is_exact)

    def _kept(self, weight: float, sections: Range) -> list[Tensor]:
        """The weight for each row, 1 where the gradient is masked."""
        assert self._flags is not None
        if (weight, ALL) not in self._keep_columns:
            one, kept = (self.bundle.constant(value, self.bundle.dtype) for value in (1.0, weight))
            self._keep_columns[weight, ALL] = self._layout.spread(torch.where(self._flags, kept, one), ALL)
        return self._layout.part(self._keep_columns[weight, ALL], sections, ALL)

    def _directed(self) -> dict[Range, list[Tensor]]:
        """The direction of each section: P with momentum, Adam's for tables, the grafted step for all others."""
        layout, group = self._layout, self._group
        directions = {OTHERS: layout.part(self._S, OTHERS, ALL)}
        if layout.places(PRECONDITIONED):
            momentum = self.bundle.buffers["momentum"]
            M = grafting.with_momentum_(momentum, self._precondition(), group, self._terms(PRECONDITIONED))
            directions[PRECONDITIONED] = self._flattened(M) if group["flatten"] else M
        if layout.places(TABLES):
            G = layout.part(self._G, TABLES, ALL)
            buffers = self._named("graft.", TABLES)
            directions[TABLES] = grafting.table_directions_(buffers, G, group, self._terms(TABLES))
        return directions

    def _precondition(self) -> list[Tensor]:
        """Refresh what is due, then P = L G R, batch by batch."""
        layout, bundle = self._layout, self.bundle
        P = layout.empty(PRECONDITIONED, bundle.dtype)
        given = [kind.matrices(self._G[kind.zone]) for kind in layout.classes]
        made = [self._room(kind, P) for kind in layout.classes]
        numbers = {id(kind): number for number, kind in enumerate(layout.classes)}
        update_stacks(bundle.optimizer, [self._update(flat, given, numbers) for flat in bundle.stacks])
        for flat in bundle.stacks:
            for batch in flat.batches:
                number = numbers[id(batch.kind)]
                self._apply(flat, batch, batch.piece.of(given[number]), batch.piece.of(made[number]))
        for kind, matrices in zip(layout.classes, made, strict=True):
            if not kind.order.is_contiguous:
                _scatter(kind, matrices, P)
        return P

    def _room(self, kind: ParameterClass, P: list[Tensor]) -> Tensor:
        """Where a class's P is put: in its own place, or for another order of memory beside it."""
        if kind.order.is_contiguous:
            return kind.matrices(P[kind.zone])
        return torch.empty((len(kind.places), *kind.member.matrix), dtype=self.bundle.dtype, device=self.bundle.device)

    def _update(self, flat: FlatStack, given: list[Tensor], numbers: dict[int, int]) -> StackUpdate:
        rows = [row for row, place in enumerate(flat.places) if self._present[place]]

        def gradients() -> Tensor:
            pieces = [batch.piece.of(given[numbers[id(batch.kind)]]) for batch in flat.batches]
            return pick(pieces[0] if len(pieces) == 1 else torch.cat(pieces), rows)

        def flags() -> Tensor:
            assert self._flags is not None
            return pick(self._flags.index_select(0, flat.owners), rows)

        return StackUpdate(
            stack=flat.stack,
            rows=rows,
            steps=[self._steps[flat.places[row]] for row in rows],
            group=self.bundle.groups[flat.group_index],
            gradients=gradients,
            flags=None if self._flags is None else flags,
        )

    def _apply(self, flat: FlatStack, batch: Batch, G: Tensor, out: Tensor) -> None:
        group, optimizer, sides = self.bundle.groups[flat.group_index], self.bundle.optimizer, list(flat.stack.sides)
        if not any(self._present[place] for place, _ in batch.piece.rows):
            out.zero_()
            return
        if not sides:
            out.copy_(G)
            return
        for side in sides[:-1]:
            G = optimizer._apply_side(flat.stack.read(side, batch.rows), G, group, right=side == "right")
        last = sides[-1]
        optimizer._apply_side_into(flat.stack.read(last, batch.rows), G, group, out, right=last == "right")

    def _flattened(self, M: list[Tensor]) -> list[Tensor]:
        """Muon's iteration on the directions, class by class."""
        layout = self._layout
        inverse = _inverse(grafting.norms(layout.pieces(M, PRECONDITIONED)))
        T = [
            rows * column
            for rows, column in zip(M, layout.spread(inverse.to(self.bundle.dtype), PRECONDITIONED), strict=True)
        ]
        for kind in layout.classes:
            X = kind.matrices(T[kind.zone])
            flat = grafting.newton_schulz(X if X.shape[1] <= X.shape[2] else X.mT, self._group["flatten"])
            flat = flat if X.shape[1] <= X.shape[2] else flat.mT
            if kind.order.is_contiguous:
                X.copy_(flat)
            else:
                _scatter(kind, flat, T)
        return T

    # Lengths and weights.

    def _measure(self) -> None:
        """Norms of the grafted steps and of the directions, of all that have a length, in one call."""
        layout, group = self._layout, self._group
        count = len(layout.places(WITH_LENGTH))
        if group["graft"] == "none" or not count:
            return
        steps = layout.pieces(layout.part(self._S, WITH_LENGTH, ALL), WITH_LENGTH)
        directions = [
            piece
            for sections in (PRECONDITIONED, TABLES)
            if sections in self._directions
            for piece in layout.pieces(self._directions[sections], sections)
        ]
        measured = grafting.norms([*steps, *directions])
        lengths, self._own_norms = measured[:count], measured[count:]
        if group["length"] == "mixed":
            lengths = self._mean_lengths(lengths)
            self.sizes = self.bundle.vector([float(p.numel()) for p in layout.params[:count]])
            if self._flags is not None:  # as if those left out were not there
                flags = self._flags[:count]
                lengths, self.sizes = torch.where(flags, lengths, 0.0), torch.where(flags, self.sizes, 0.0)
        self.lengths = lengths

    def _mean_lengths(self, lengths: Tensor) -> Tensor:
        """Advance the mean lengths, as `grafting.mean_lengths_` does, on one vector."""
        means, count = self.bundle.lengths, len(lengths)
        inverse = [1 / max(1, step) for step in self._steps[:count]]
        new = means + (lengths - means) * self.bundle.vector(inverse)
        if self._flags is not None:
            new = torch.where(self._flags[:count], new, means)
        means.copy_(new)
        return means

    def finish(self, rates: Sequence[float], totals: grafting.LengthTotals | None) -> None:
        """Scale the directions and update the weights."""
        lengths = self.lengths
        inverse: Tensor | None = None
        if lengths is not None:
            assert self._own_norms is not None
            if self.sizes is not None:
                assert totals is not None
                lengths = grafting.mixed_lengths(lengths, self.sizes, totals.on(lengths.device))
            inverse = _inverse(self._own_norms)
            self.ratios = inverse * lengths

        runs = self._runs(rates)
        if self._is_exact:
            X = self._scaled_exactly(inverse, lengths)
        else:
            X = self._scaled([-1 / run.weight_decay if run.blends else -run.lr for run in runs], runs)
        self._descend(X, runs)

    def _runs(self, rates: Sequence[float]) -> list[RateRun]:
        """Neighbours with one rate and decay."""
        runs: list[RateRun] = []
        for place, member in enumerate(self._layout.members):
            lr, decay = rates[member.group_index], self.bundle.groups[member.group_index]["weight_decay"]
            blends = not self._is_exact and decay >= LEAST_DECAY and member.param.dtype == self.bundle.dtype
            if runs and runs[-1][1:] == (lr, decay, blends):
                runs[-1] = runs[-1]._replace(places=range(runs[-1].places.start, place + 1))
            else:
                runs.append(RateRun(range(place, place + 1), lr, decay, blends))
        return runs

    def _per_place(self, values: Sequence[float], runs: Sequence[RateRun], dtype: torch.dtype) -> float | Tensor:
        """One number where all runs have the same, else a vector."""
        if len(set(values)) == 1:
            return values[0]
        return self.bundle.vector([v for v, run in zip(values, runs, strict=True) for _ in run.places], dtype)

    def _ratio_of_all(self) -> Tensor:
        """length / norm where there is a length, else 1; 0 where the gradient is masked."""
        known = [] if self.ratios is None else [self.ratios]
        rest = len(self._layout.params) - sum(map(len, known))
        parts = [*known, *([self.bundle.vector([1.0] * rest)] if rest else [])]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return whole if self._flags is None else torch.where(self._flags, whole, self._zero)

    def _scaled(self, factors: list[float], runs: list[RateRun]) -> list[Tensor]:
        """Each direction times its ratio and its run's factor, in one pass; the product is made in float64."""
        ratios = self._ratio_of_all() * self._per_place(factors, runs, torch.float64)
        return self._times(ratios)

    def _scaled_exactly(self, inverse: Tensor | None, lengths: Tensor | None) -> list[Tensor]:
        """As `grafting.scale_to`: by 1 / norm, then by the length."""
        ones = self.bundle.vector([1.0] * len(self._layout.params))
        count = 0 if inverse is None else len(inverse)
        kept = ones if self._flags is None else self._flags.double()
        if inverse is None or lengths is None:
            return self._times(kept.to(self.bundle.dtype))
        X = self._times((torch.cat((inverse, ones[count:])) * kept).to(self.bundle.dtype))
        columns = self._layout.spread(torch.cat((lengths, ones[count:])).to(self.bundle.dtype), ALL)
        return list(torch._foreach_mul(X, columns))

    def _times(self, vector: Tensor) -> list[Tensor]:
        """Every direction times a number for each parameter, in the memory of the gradients, which end here."""
        layout, X = self._layout, self._G
        columns = layout.spread(vector, ALL)
        for sections, rows in self._directions.items():
            targets = layout.part(X, sections, ALL)
            for target, row, column in zip(targets, rows, layout.part(columns, sections, ALL), strict=True):
                if target.numel():
                    torch.mul(row, column, out=target)
        return X

    def _descend(self, X: list[Tensor], runs: list[RateRun]) -> None:
        """w <- (1 - lr wd) w - lr u."""
        layout, dtype = self._layout, self.bundle.dtype
        xs = layout.pieces(X, ALL)
        weights, loose = self._weights()
        W = None
        if weights[0].dtype != dtype:  # they are moved in state precision, in rows
            W = layout.empty(ALL, dtype)
            masters = layout.pieces(W, ALL)
            torch._foreach_copy_(masters, weights)
            self._decay_rows(W, runs)
            self._add(masters, xs, runs)
            torch._foreach_copy_(weights, masters)
        else:
            self._blend_or_decay(weights, xs, runs)
            self._add(weights, xs, runs)
        for place in loose:
            layout.params[place].copy_(weights[place].view(layout.params[place].shape))

    def _weights(self) -> tuple[list[Tensor], list[int]]:
        """The parameters as one dimension each, and the places of those that have gaps in memory: these are copies."""
        layout = self._layout
        flats = [order.flattened(param) for order, param in zip(layout.orders, layout.params, strict=True)]
        loose = [place for place, flat in enumerate(flats) if flat is None]
        return [p.reshape(-1).clone() if f is None else f for p, f in zip(layout.params, flats, strict=True)], loose

    def _blend_or_decay(self, weights: list[Tensor], xs: list[Tensor], runs: list[RateRun]) -> None:
        """w + lr wd (x - w) with x = -u / wd, which is the whole update; or w (1 - lr wd)."""
        layout, dtype = self._layout, self.bundle.dtype
        ds: list[Tensor] | None = None
        if self._flags is not None and any(run.weight_decay != 0 for run in runs):
            D = layout.empty(ALL, dtype)
            for rows, column in zip(D, layout.spread(self._decays(runs), ALL), strict=True):
                rows.copy_(column.expand_as(rows))
            ds = layout.pieces(D, ALL)
        for run in runs:
            here = slice(run.places.start, run.places.stop)
            if run.blends:
                torch._foreach_lerp_(weights[here], xs[here], run.lr * run.weight_decay if ds is None else ds[here])
            elif run.weight_decay != 0:
                torch._foreach_mul_(weights[here], 1 - run.lr * run.weight_decay if ds is None else ds[here])

    def _decay_rows(self, W: list[Tensor], runs: list[RateRun]) -> None:
        if all(run.weight_decay == 0 for run in runs):
            return
        if self._flags is None and len(runs) == 1:
            torch._foreach_mul_(W, 1 - runs[0].lr * runs[0].weight_decay)
        else:
            torch._foreach_mul_(W, self._layout.spread(self._decays(runs), ALL))

    def _decays(self, runs: list[RateRun]) -> Tensor:
        """A run's weight of the blend, or what its weights are multiplied by; what changes nothing under a mask."""
        dtype = self.bundle.dtype
        moving = [r.lr * r.weight_decay if r.blends else 1 - r.lr * r.weight_decay for r in runs]
        resting = [0.0 if run.blends else 1.0 for run in runs]
        where_moved, where_masked = (self._per_place(values, runs, dtype) for values in (moving, resting))
        if self._flags is None:
            assert isinstance(where_moved, Tensor), "one number is not spread"
            return where_moved
        return torch.where(self._flags, self._as_tensor(where_moved), self._as_tensor(where_masked))

    def _as_tensor(self, value: float | Tensor) -> Tensor:
        return value if isinstance(value, Tensor) else self.bundle.constant(value, self.bundle.dtype)

    def _add(self, weights: list[Tensor], xs: list[Tensor], runs: list[RateRun]) -> None:
        for run in runs:
            here = slice(run.places.start, run.places.stop)
            if not run.blends:
                torch._foreach_add_(weights[here], xs[here], alpha=-run.lr if self._is_exact else 1.0)


def _inverse(norms: Tensor) -> Tensor:
    return torch.where(norms > 0, 1 / norms, 0.0)


def _scatter(kind: ParameterClass, matrices: Tensor, rows: list[Tensor]) -> None:
    """Matrices (K, m, n) to their places in memory of another order."""
    part = rows[kind.zone].view(-1)[kind.start : kind.start + kind.entries]
    shape, dims = kind.member.param.shape, kind.order.dims
    turned = matrices.reshape(len(kind.places), *shape).permute(0, *[1 + d for d in dims])
    part.view(len(kind.places), *[shape[d] for d in dims]).copy_(turned)
