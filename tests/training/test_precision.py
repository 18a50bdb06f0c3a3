from __future__ import annotations

from typing import Any

import pytest
import torch

from jorge_tune.training.device import autocast, backends_for, grad_scaler

_CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("fp32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_products_are_of_the_precision_asked_for(precision: Any, expected: torch.dtype) -> None:
    with autocast(precision, _CPU):
        assert torch.nn.Linear(3, 2)(torch.randn(4, 3)).dtype == expected
    assert not grad_scaler(precision, _CPU).is_enabled()


@pytest.mark.parametrize(("precision", "expected"), [("fp32", "ieee"), ("tf32", "tf32"), ("bf16", "ieee")])
def test_float32_means_float32_unless_tf32_is_asked_for_and_is_put_back(precision: Any, expected: str) -> None:
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = matmul.fp32_precision, conv.fp32_precision, torch.backends.cudnn.benchmark
    with backends_for(precision):
        assert matmul.fp32_precision == conv.fp32_precision == expected
    assert (matmul.fp32_precision, conv.fp32_precision, torch.backends.cudnn.benchmark) == before
