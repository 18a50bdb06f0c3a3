"""What holds for every framework: no network, no tracking, one thread's worth of work."""

from __future__ import annotations

import os

import pytest
import torch

# Read when the frameworks are imported, which is after this file.
for name, value in {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}.items():
    os.environ.setdefault(name, value)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
