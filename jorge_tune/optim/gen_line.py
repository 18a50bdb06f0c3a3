"""What a probe needs: the line through a step, losses along it, and surroundings that are left as they were.

`StepLine` moves the parameters along the line. `ProbeState` puts random streams, module buffers and autocast's cache
back. `measure` reads the loss at points of the line, `fit_losses` lays the parabola through them.

`watch_calls` reports every module that is called in this process. A global hook of torch would do, but for compiled
modules: the compiler takes each new hook as a reason to compile again, and a module that is compiled in place runs its
hooks inside the compiled code.

Legend: w the weights before a step, D its displacement; a point x of the line is w - x D, so x = 1 is the step as made.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor, nn

from jorge_tune.optim.argument_checks import require
from jorge_tune.optim.parabola import Parabola, fit_parabola

LossClosure = Callable[[], Tensor | float]


class StepLine:
    """The line through one step: two copies of the parameters, dropped with it.

    Make it before the step, and call `stepped` after it. A context manager: whatever happens inside, the parameters are
    at the resting point when it is left. That is the step bitwise as it was made, unless `rest_at` chose another.

    Args:
        params: All parameters that the step may move.
    """

    def __init__(self, params: Iterable[Tensor]) -> None:
        self._params = list(params)
        self._before = [p.detach().clone() for p in self._params]
        self._after: list[Tensor] = []
        self._rest = 1.0

    def stepped(self) -> bool:
        """Take the parameters as they are for the end of the step; whether it moved any of them."""
        self._after = [p.detach().clone() for p in self._params]
        return any(not torch.equal(b, a) for b, a in zip(self._before, self._after, strict=True))

    def go_to(self, x: float) -> None:
        """Put the parameters to w - x D."""
        for p, before, after in zip(self._params, self._before, self._after, strict=True):
            if x in (0, 1):  # bitwise, and an infinite D does no harm at 0
                p.copy_(after if x else before)
            else:
                torch.lerp(before, after, x, out=p)

    def rest_at(self, x: float) -> None:
        """Leave the parameters at w - x D in the end."""
        self._rest = x

    def __enter__(self) -> StepLine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.go_to(self._rest)


class ProbeState:
    """Random streams, module buffers and autocast's cache, put back before every point and at the end.

    While entered, it watches every call of a module in this process and saves the buffers of that module and of all
    below it, so no model need be named. Random streams are torch's on the CPU and on `devices`, Python's, and NumPy's
    if it is loaded. A generator of the caller's own is left alone.

    Args:
        devices: Where parameters are.
        known: Modules whose buffers to save anyway.
        watch: Whether to watch for others.
    """

    def __init__(self, devices: Iterable[torch.device], known: Iterable[nn.Module] = (), *, watch: bool = True) -> None:
        self._devices = sorted({d for d in devices if d.type != "cpu"}, key=str)
        self._known, self._watch = list(known), watch
        self._streams: dict[str, Any] = {}
        self._buffers: list[tuple[nn.Module, str, Tensor, Tensor]] = []
        self._saved: set[nn.Module] = set()
        self._below: set[nn.Module] = set()  # the modules called, and all within them
        self.modules: WeakSet[nn.Module] = WeakSet()
        """The outermost modules that were called."""
        self.drew = False
        """Whether a random number was drawn so far."""

    def __enter__(self) -> ProbeState:
        self._streams = _read_streams(self._devices)
        for module in self._known:
            self._save(module)
        self._stop_watching = watch_calls(self._called) if self._watch else None
        torch.clear_autocast_cache()  # it may hold casts of weights that are about to move
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stop_watching is not None:
            self._stop_watching()
        self.renew()

    def renew(self) -> None:
        """Put everything back, and note whether random numbers had been drawn."""
        now = _read_streams(self._devices)
        if any(not _same(now[name], before) for name, before in self._streams.items()):
            self.drew = True
            _write_streams(self._streams, self._devices)
        for module, name, tensor, copy in self._buffers:
            tensor.copy_(copy)
            module._buffers[name] = tensor  # where the forward put another in its place
        torch.clear_autocast_cache()

    def evaluates(self, params: Iterable[Tensor]) -> bool:
        """Whether an outermost module that holds one of these parameters was called in evaluation mode."""
        ours = {id(p) for p in params}
        return any(not m.training and any(id(p) in ours for p in m.parameters()) for m in self.modules)

    def _called(self, module: nn.Module) -> None:
        if module not in self._below:
            self.modules.add(module)
            self._below.update(module.modules())
            self._save(module)

    def _save(self, module: nn.Module) -> None:
        for inner in module.modules():
            if inner not in self._saved:
                self._saved.add(inner)
                for name, tensor in inner._buffers.items():
                    if tensor is not None:
                        self._buffers.append((inner, name, tensor, tensor.detach().clone()))


class Loss(NamedTuple):
    """A loss as a number, and how far rounding may have moved it."""

    value: float
    rounding: float


def read_loss(result: object, name: str = "what loss_closure returns") -> Loss:
    """The number behind what a loss closure returned, or the caller gave under another name.

    Raises:
        ValueError: it is not a scalar.
    """
    if isinstance(result, Tensor):
        require(result.numel() == 1, name, "be a scalar", tuple(result.shape))
        require(not result.is_complex(), name, "be real", result.dtype)
        value = float(result.detach())
        kind = result.dtype if result.dtype.is_floating_point else torch.float64
        return Loss(value, abs(value) * torch.finfo(kind).eps)
    numeric = isinstance(result, (int, float)) and not isinstance(result, bool)
    require(numeric, name, "be a number or a tensor with one element", result)
    value = float(result)  # type: ignore[arg-type]
    return Loss(value, abs(value) * sys.float_info.epsilon)


def measure(
    line: StepLine, probe_state: ProbeState, closure: LossClosure, multipliers: Sequence[float]
) -> dict[float, Loss]:
    """The loss at each point of the line, all from the same surroundings."""
    losses: dict[float, Loss] = {}
    for x in multipliers:
        line.go_to(x)
        losses[x] = read_loss(_without_backward(closure))
        probe_state.renew()
    return losses


def fit_losses(losses: dict[float, Loss]) -> Parabola:
    """The parabola through finite losses, with what rounding hides; a float that was a tensor keeps its coarseness."""
    values = [loss.value for loss in losses.values()]
    resolution = max(loss.rounding for loss in losses.values())
    if all(torch.tensor(value, dtype=torch.float32).item() == value for value in values):
        resolution = max(resolution, torch.finfo(torch.float32).eps * max(map(abs, values)))
    return fit_parabola(list(losses), values, resolution=resolution)


def fingerprint(params: Iterable[Tensor]) -> list[tuple[int, float]]:
    """What changes when a parameter does: the count of in-place operations, and the norm, which `.data` cannot hide."""
    listed = list(params)
    norms = [torch.linalg.vector_norm(p.detach().flatten()) for p in listed]
    return [(p._version, float(norm)) for p, norm in zip(listed, norms, strict=True)]


def _without_backward(closure: LossClosure) -> Tensor | float:
    try:
        return closure()
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        raise ValueError("loss_closure must compute the loss and no more: it is called without gradients") from error


def _numpy_random() -> Any:
    """NumPy's random module where something else loaded it."""
    numpy = sys.modules.get("numpy")
    return None if numpy is None else numpy.random


def _read_streams(devices: list[torch.device]) -> dict[str, Any]:
    streams: dict[str, Any] = {"cpu": torch.get_rng_state(), "python": random.getstate()}
    if (numpy_random := _numpy_random()) is not None:
        streams["numpy"] = numpy_random.get_state()
    for device in devices:
        streams[str(device)] = _device_call("get_rng_state", device)()
    return streams


def _write_streams(streams: dict[str, Any], devices: list[torch.device]) -> None:
    torch.set_rng_state(streams["cpu"])
    random.setstate(streams["python"])
    if "numpy" in streams:
        _numpy_random().set_state(streams["numpy"])
    for device in devices:
        _device_call("set_rng_state", device)(streams[str(device)])


def _device_call(name: str, device: torch.device) -> Callable[..., Any]:
    """A device's random-state function; Apple's has no device argument."""
    call = getattr(torch.get_device_module(device), name)
    return call if device.type == "mps" else lambda *args: call(*args, device)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if hasattr(a, "tobytes"):
        return bool(a.tobytes() == b.tobytes())
    return bool(a == b)


_plain_call: Callable[..., Any] = nn.Module.__call__
_listeners: list[Callable[[nn.Module], None]] = []


def watch_calls(listener: Callable[[nn.Module], None]) -> Callable[[], None]:
    """Call `listener` with every module before it is called; with a compiled one as a whole, not with those inside.

    Each watch changes `nn.Module` twice, and CPython 3.13 gives up caching a class's attributes after 1,000 changes.

    Returns:
        What ends it, to be called once.
    """
    global _plain_call
    if not _listeners:
        _plain_call = nn.Module.__call__
        nn.Module.__call__ = _watched_call  # type: ignore[method-assign]
    _listeners.append(listener)

    def stop() -> None:
        _listeners.remove(listener)
        if not _listeners:
            nn.Module.__call__ = _plain_call  # type: ignore[method-assign]

    return stop


def _watched_call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    if not torch.compiler.is_compiling():
        for listener in _listeners:
            listener(module)
    return _plain_call(module, *args, **kwargs)
