"""GeN: the learning rate from forward passes along the step that any optimizer proposes.

`GeN` takes the steps and probes. `search_rate` finds the first learning rate: an exponential grid along one step's
line, refined by a parabola (GeN, C.4.2). What a probe needs is in `gen_line.py`, the parabola in `parabola.py`.

Legend: w_t the weights before a step, D = w_t - w_{t+1} the inner optimizer's displacement; L(x) the loss at w_t - x D;
x* where its parabola is lowest; s the one factor on all learning rates; gamma the smoothing.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, Literal, NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from jorge_tune.optim.argument_checks import is_count, is_number, plain, read_rate, require
from jorge_tune.optim.gen_line import (
    Loss,
    LossClosure,
    ProbeState,
    StepLine,
    fingerprint,
    fit_losses,
    measure,
    read_loss,
)
from jorge_tune.optim.parabola import MIN_POINTS, Parabola

RATES = tuple(10.0**k for k in range(-6, 3))
_REFINED = (10**-0.5, 10**0.5)  # how far the parabola may move the grid's best: half the way to its neighbours
_SEARCH_STEP = 1e-2  # rate of the step whose line is searched: in the middle of the grid, so rounding does not hide D
_WATCHED_PROBES = 200  # probes that look for the modules which the closure calls; from then on these are known
_SAME_LOSS = 64  # a given loss serves as L(0) if it differs from the closure's by at most that many roundings


class Probe(NamedTuple):
    """What was measured at one step: losses by multiplier (by rate in a search), the fit, and what came of it."""

    step: int
    losses: dict[float, float]
    fit: Parabola | None
    accepted: bool
    scale: float  # s from this step on
    note: str


class GeN:
    """Sets the learning rate of any torch optimizer from the loss along its own step (GeN, Algorithm 1, lazily).

    At every `interval`-th step the loss is computed at a few points w_t - x D, by forward passes alone. If their
    parabola is a convex descent, s <- clip(gamma s + (1 - gamma) s x*, s / clamp, s clamp), and the same step is
    rescaled: w_{t+1} = w_t - (s' / s) D. Otherwise the step stays bitwise as the inner optimizer made it. Its state
    advances exactly once per step; every group's lr is multiplied by s during its step only, so that schedulers, which
    belong on the inner optimizer, see their own values. A schedule that decays to zero composes that way.

    All points start from one state of the random streams (torch's, Python's, NumPy's; not of generators of your own);
    these, module buffers and gradients are afterwards as if there had been no probe. A probe holds two copies of the
    parameters, nothing between probes. Displacements are assumed to be proportional to lr, as they are for all
    common optimizers.

    Args:
        optimizer: Any torch optimizer whose groups have an `lr`.
        interval: Steps between two probes, Phi >= 1.
        smoothing: gamma in [0, 1].
        points: 3 (x = -1, 0, 1) or 5 (-2 to 2). Three points cannot separate a parabola from noise; five can, and do.
        clamp: Most that s may change by at one probe, >= 1.
        initial_lr: "given", or "search": the first step takes the best rate of a grid from 1e-6 to 1e2, refined by
            one parabola; it stands for the first group's rate before any schedule, the groups' ratios kept (C.4.2).

    Raises:
        ValueError: an argument out of its range, a group without lr, or an optimizer whose step asks for a closure.

    Example:
        >>> model = nn.Linear(4, 1)
        >>> gen = GeN(torch.optim.SGD(model.parameters(), lr=0.1))
        >>> x, y = torch.randn(8, 4), torch.randn(8, 1)
        >>> def closure():
        ...     return nn.functional.mse_loss(model(x), y)
        >>> loss = closure()
        >>> loss.backward()
        >>> gen.step(closure, loss)

    Reference:
        Bu and Xu, "Automatic gradient descent with generalized Newton's method", Algorithm 1, Appendix C.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        interval: int = 8,
        smoothing: float = 0.9,
        points: Literal[3, 5] = 3,
        clamp: float = 2.0,
        initial_lr: Literal["given", "search"] = "given",
    ) -> None:
        interval, smoothing, points, clamp = (plain(value) for value in (interval, smoothing, points, clamp))
        check_arguments(optimizer, interval, smoothing, points, clamp, initial_lr)
        self.optimizer = optimizer
        self.interval, self.smoothing, self.points, self.clamp = interval, smoothing, points, clamp
        self.scale = 1.0
        """s, the factor on every group's learning rate."""
        self.steps = 0
        self.last_probe: Probe | None = None
        self._searching = initial_lr == "search"
        self._trusts_loss: bool | None = None  # whether a given loss is what the closure gives at w_t; None: not seen
        self._modules: WeakSet[nn.Module] = WeakSet()  # that the closure called
        self._watched = 0
        self._warned: set[str] = set()
        check_rates(self.param_groups)
        if self._searching:
            require(self._leading_rates()[1] > 0, "lr", "be > 0 in a group for initial_lr='search'", 0)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The inner optimizer's groups; their lr is the scheduler's, without s."""
        return self.optimizer.param_groups

    @property
    def rates(self) -> list[float]:
        """The learning rates in force, lr s by group."""
        return [read_rate(group["lr"]) * self.scale for group in self.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, as the inner optimizer does."""
        self.optimizer.zero_grad(set_to_none)

    def step(self, loss_closure: LossClosure, loss: Tensor | float | None = None) -> None:
        """One step of the inner optimizer and, where one is due, a probe.

        Args:
            loss_closure: Computes the loss that the gradients came from, and no backward: on the same batches, in the
                same mode and precision, averaged over as many batches as it likes (and over ranks, where there are
                several). It is called at probe steps only, without gradients.
            loss: L(0) from the training forward, which saves one forward pass. The first probe compares it with what
                the closure gives and does without it from then on if they differ; so it does whenever the closure
                draws random numbers.

        Raises:
            ValueError: the closure is no function, calls backward or returns no scalar, or a group has no lr. What the
                inner optimizer did stays.
        """
        require(callable(loss_closure), "loss_closure", "be a function of nothing", type(loss_closure).__name__)
        check_rates(self.param_groups)
        scheduled, _ = self._leading_rates()
        searching = self._searching and scheduled > 0
        if not searching and (self.steps + 1) % self.interval:
            self._inner_step(self.scale)
            return
        scale = _SEARCH_STEP / scheduled if searching else self.scale
        params = [p for group in self.param_groups for p in group["params"]]
        line, outside = StepLine(params), self._outside()
        before = fingerprint(outside)
        self._inner_step(scale)
        reason = self._no_probe_because(line, outside_changed=fingerprint(outside) != before)
        with torch.no_grad(), line:
            line.rest_at(self.scale / scale)  # 1 but in a search
            if reason:
                self.last_probe = self._without_fit(reason)
                return
            watch = self._watched < _WATCHED_PROBES or not self._modules
            self._watched += watch
            with ProbeState({p.device for p in params}, self._modules, watch=watch) as probe_state:
                try:
                    measured = self._search if searching else self._probe
                    self.last_probe = measured(line, probe_state, loss_closure, loss)
                except StopIteration:
                    note = "the closure ran out of batches: the rate is kept"
                    self._warn_once(
                        "batches", note + " (take the batches before the step, and let the closure hold them)"
                    )
                    self.last_probe = self._without_fit(note)
                finally:
                    self._modules |= probe_state.modules
        if probe_state.evaluates(params):
            self._warn_once("mode", "loss_closure calls a model in evaluation mode: the loss measured is of that mode")

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's state and GeN's own few numbers; the arguments are the constructor's."""
        return {"optimizer": self.optimizer.state_dict(), "gen": self._own_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave.

        Raises:
            ValueError: it is another optimizer's, or was changed since. Nothing was changed here.
        """
        check_own_state(state_dict, set(self._own_state()))
        own = state_dict["gen"]
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.scale, self.steps = own["scale"], own["steps"]
        self._searching, self._trusts_loss = own["searching"], own["trusts"]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_modules": None}  # they are the caller's; later probes see them again

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({"_warned": set()} | state, _modules=WeakSet())

    def _own_state(self) -> dict[str, Any]:
        return {"scale": self.scale, "steps": self.steps, "searching": self._searching, "trusts": self._trusts_loss}

    def _inner_step(self, scale: float) -> None:
        rates = [group["lr"] for group in self.param_groups]
        scaled = [rate * scale for rate in rates]
        for group, lr in zip(self.param_groups, scaled, strict=True):
            group["lr"] = lr
        try:
            self.optimizer.step()
        finally:
            for group, lr, rate in zip(self.param_groups, scaled, rates, strict=True):
                group["lr"] = rate if group["lr"] is lr else group["lr"] / scale  # some set their own
        self.steps += 1

    def _no_probe_because(self, line: StepLine, *, outside_changed: bool) -> str:
        """Why there is nothing to probe at this step, if so."""
        moved = line.stepped()
        if max(self.rates) == 0:
            return "lr is 0 in every group: there is no step to measure along"
        if not moved:
            return "the step moved nothing: there is no line to measure along"
        if outside_changed:
            note = "the optimizer changes parameters outside its groups: the rate is kept"
            self._warn_once("outside", note + "; put them into a group, so that a probe can move them too")
            return note
        return ""

    def _probe(
        self, line: StepLine, probe_state: ProbeState, closure: LossClosure, loss: Tensor | float | None
    ) -> Probe:
        """Algorithm 1, lines 5 to 8."""
        measured = measure(line, probe_state, closure, (-1, 1) if self.points == MIN_POINTS else (-2, -1, 1, 2))
        measured[0] = self._middle(line, probe_state, closure, loss)
        finite = {x: measured[x] for x in sorted(measured) if math.isfinite(measured[x].value)}
        losses = {x: measured[x].value for x in sorted(measured)}
        if len(finite) < MIN_POINTS:
            return self._without_fit(
                f"the loss is finite at {len(finite)} of {len(measured)} points: the rate is kept", losses
            )

        fit = fit_losses(finite)
        if fit.optimum is None:
            return Probe(self.steps, losses, fit, False, self.scale, f"{fit.sentence}: the rate is kept")

        wanted = self.smoothing + (1 - self.smoothing) * fit.optimum  # s' / s
        ratio = min(max(wanted, 1 / self.clamp), self.clamp)
        line.rest_at(ratio)
        self.scale *= ratio
        return Probe(self.steps, losses, fit, True, self.scale, fit.sentence)

    def _middle(
        self, line: StepLine, probe_state: ProbeState, closure: LossClosure, loss: Tensor | float | None
    ) -> Loss:
        """L(0): the given loss where it is what the closure gives at w_t, else by the closure."""
        usable = loss is not None and not probe_state.drew
        if usable and self._trusts_loss:
            return read_loss(loss, "loss")

        own = measure(line, probe_state, closure, (0,))[0]
        if usable and self._trusts_loss is None:
            given = read_loss(loss, "loss")
            if math.isfinite(given.value) and math.isfinite(own.value):
                self._trusts_loss = abs(given.value - own.value) <= _SAME_LOSS * max(given.rounding, own.rounding)
            if self._trusts_loss is False:
                self._warn_once(
                    "loss",
                    f"loss ({given.value:.6g}) is not what loss_closure gives at the same weights ({own.value:.6g}): "
                    "another batch, mode, precision or scaling; L(0) is computed by the closure from now on",
                )
        return own

    def _search(
        self, line: StepLine, probe_state: ProbeState, closure: LossClosure, loss: Tensor | float | None
    ) -> Probe:
        """The first rate, by a search along a step of rate `_SEARCH_STEP` (C.4.2)."""
        self._searching = False
        scheduled, base = self._leading_rates()

        def at_rates(rates: Sequence[float]) -> dict[float, Loss]:
            measured = measure(line, probe_state, closure, [rate / _SEARCH_STEP for rate in rates])
            return dict(zip(rates, measured.values(), strict=True))

        rate, losses, fit = search_rate(at_rates)
        if rate is None:
            note = f"no rate from {RATES[0]:g} to {RATES[-1]:g} lowers the loss: the given one is kept"
            self._warn_once("search", note)
        else:
            note = f"found {rate:.3g} as the first rate"
            self.scale = rate / base
        line.rest_at(scheduled * self.scale / _SEARCH_STEP)
        return Probe(self.steps, losses, fit, rate is not None, self.scale, note)

    def _without_fit(self, note: str, losses: dict[float, float] | None = None) -> Probe:
        return Probe(self.steps, losses or {}, None, False, self.scale, note)

    def _leading_rates(self) -> tuple[float, float]:
        """The rate of the first group that has one above 0: as scheduled, and before any schedule."""
        rates = [(read_rate(g["lr"]), read_rate(g.get("initial_lr", g["lr"]))) for g in self.param_groups]
        return next((pair for pair in rates if pair[1] > 0), (0.0, 0.0))

    def _outside(self) -> list[Tensor]:
        """Trainable parameters of the modules seen so far that no group holds."""
        ours = {id(p) for group in self.param_groups for p in group["params"]}
        return [p for m in self._modules for p in m.parameters() if p.requires_grad and id(p) not in ours]

    def _warn_once(self, about: str, message: str) -> None:
        """Warn once of each thing."""
        if about not in self._warned:
            self._warned.add(about)
            warnings.warn(f"GeN: {message}", stacklevel=3)


class Search(NamedTuple):
    """The rate found, if any lowers the loss; the finite losses by rate; the parabola that refined it."""

    rate: float | None
    losses: dict[float, float]
    fit: Parabola | None


def search_rate(measure: Callable[[Sequence[float]], dict[float, Loss]]) -> Search:
    """The best of `RATES`, then the lowest point of the parabola through the losses at -rate, 0 and rate.

    Args:
        measure: Losses at learning rates along the line; 0 is where the step starts.
    """
    measured = measure((0.0, *RATES))
    finite = {rate: loss for rate, loss in measured.items() if math.isfinite(loss.value)}
    losses = {rate: loss.value for rate, loss in finite.items()}
    best = min(losses, key=losses.__getitem__, default=0.0)
    if best == 0 or 0.0 not in finite:
        return Search(None, losses, None)

    mirrored = measure((-best,))[-best]
    fit = None
    if math.isfinite(mirrored.value):
        fit = fit_losses({-1: mirrored, 0: finite[0.0], 1: finite[best]})
    if fit is None or fit.optimum is None:
        return Search(best, losses, fit)
    return Search(best * min(max(fit.optimum, _REFINED[0]), _REFINED[1]), losses, fit)


def check_arguments(
    optimizer: object, interval: object, smoothing: Any, points: object, clamp: Any, initial_lr: object
) -> None:
    """Check the constructor's arguments, NumPy's scalars made plain before."""
    kind = type(optimizer).__name__
    require(isinstance(optimizer, Optimizer), "optimizer", "be a torch optimizer", kind)
    require(_steps_alone(optimizer), "optimizer", "take its step without a closure", kind)
    require(is_count(interval, 1), "interval", "be an int >= 1", interval)
    require(is_number(smoothing) and 0 <= smoothing <= 1, "smoothing", "be in [0, 1]", smoothing)
    require(points in (3, 5), "points", "be 3 or 5", points)
    require(is_number(clamp) and clamp >= 1, "clamp", "be >= 1", clamp)
    require(initial_lr in ("given", "search"), "initial_lr", "be 'given' or 'search'", initial_lr)


def check_rates(groups: Sequence[dict[str, Any]]) -> None:
    """Check that every group has a learning rate."""
    for index, group in enumerate(groups):
        lr = group.get("lr")
        numeric = lr.numel() == 1 if isinstance(lr, Tensor) else isinstance(lr, Real) and not isinstance(lr, bool)
        require(numeric, f"param_groups[{index}]['lr']", "be a number, which GeN scales", lr)


def check_own_state(state_dict: Any, keys: set[str]) -> None:
    """Check that a state is GeN's, with numbers that it could have saved.

    Raises:
        ValueError: what is wrong.
    """
    require(isinstance(state_dict, Mapping), "state_dict", "be a dict", type(state_dict).__name__)
    keys_given = sorted(map(str, state_dict))
    require(keys_given == ["gen", "optimizer"], "state_dict", "be GeN's own, not the optimizer's", keys_given)
    own = state_dict["gen"]
    form = isinstance(own, Mapping) and own.keys() == keys
    require(form, "state_dict['gen']", "be GeN's own", sorted(map(str, own)) if isinstance(own, Mapping) else own)
    sound = is_number(own["scale"]) and own["scale"] > 0
    require(sound, "state_dict['gen']['scale']", "be a finite number > 0", own["scale"])
    require(is_count(own["steps"], 0), "state_dict['gen']['steps']", "be an int >= 0", own["steps"])
    require(isinstance(own["searching"], bool), "state_dict['gen']['searching']", "be True or False", own["searching"])
    trusts = own["trusts"]
    require(trusts is None or isinstance(trusts, bool), "state_dict['gen']['trusts']", "be True, False or None", trusts)


def _steps_alone(optimizer: Any) -> bool:
    """Whether the class's `step` can do without arguments (the instance's may be wrapped by a scheduler)."""
    _, *parameters = inspect.signature(type(optimizer).step).parameters.values()
    return all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
