"""The arithmetic of a run: fp32 and tf32 products, bf16 and fp16 by autocast."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from jorge_tune.recipe.schema import Precision

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context of a forward pass."""
    dtype = _AUTOCAST.get(precision)
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def grad_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Scales the loss under fp16 on a GPU, and does nothing elsewhere."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16" and device.type == "cuda")


def step_schedule(scheduler: LambdaLR, scaler: torch.amp.GradScaler) -> None:
    """Step the schedule. The scaler may have left out its first optimizer step, of which torch would warn."""
    if not scaler.is_enabled():
        scheduler.step()
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*optimizer.step.*")
        scheduler.step()


@contextlib.contextmanager
def backends_for(precision: Precision) -> Iterator[None]:
    """float32 products as the recipe says (fp32 means fp32, in convolutions too); what was set before is put back."""
    wanted = "tf32" if precision == "tf32" else "ieee"
    products: Any = torch.backends.cuda.matmul
    convolutions: Any = getattr(torch.backends.cudnn, "conv")  # noqa: B009  (unknown to torch's types)
    before = products.fp32_precision, convolutions.fp32_precision, torch.backends.cudnn.benchmark
    products.fp32_precision = convolutions.fp32_precision = wanted
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        products.fp32_precision, convolutions.fp32_precision, torch.backends.cudnn.benchmark = before
