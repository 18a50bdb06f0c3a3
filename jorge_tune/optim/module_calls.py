"""Who is told of every module that is called in this process.

A global hook of torch would do but for compiled modules: the compiler takes each new hook for a reason to compile
again, and a module that is compiled in place runs its hooks within what is compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_plain_call: Callable[..., Any] = nn.Module.__call__
_listeners: list[Callable[[nn.Module], None]] = []


def watch_calls(listener: Callable[[nn.Module], None]) -> Callable[[], None]:
    """Tell `listener` of every module before it is called; of a compiled one as a whole, not of what is within.

    Each watch changes `nn.Module` twice, and CPython 3.13 gives up caching a class's attributes after 1,000 changes.

    Returns:
        What ends it, to be called once.
    """
    global _plain_call
    if not _listeners:
        _plain_call = nn.Module.__call__
        nn.Module.__call__ = _told_call  # type: ignore[method-assign]
    _listeners.append(listener)

    def stop() -> None:
        _listeners.remove(listener)
        if not _listeners:
            nn.Module.__call__ = _plain_call  # type: ignore[method-assign]

    return stop


def _told_call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    if not torch.compiler.is_compiling():
        for listener in _listeners:
            listener(module)
    return _plain_call(module, *args, **kwargs)
