"""The README's commands and snippets are what a stranger runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from jorge_tune.cli import _COMMANDS, main

README = (Path(__file__).parents[2] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_it_is_short():
    assert len(README.splitlines()) < 150


def test_its_training_loop_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["bootstrap", "digits/cnn-sgd", "-o", "jorge.yaml"])
    assert ended.value.code == 0
    torch.manual_seed(0)
    images, labels = torch.randn(64, 1, 8, 8), torch.randint(0, 10, (64,))
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    loader = list(zip(images.split(16), labels.split(16), strict=True))
    names = {"torch": torch, "model": model, "loader": loader, "epochs": 20}
    before = nn.functional.cross_entropy(model(images), labels).item()
    (snippet,) = blocks("python")
    exec(snippet, names)
    assert nn.functional.cross_entropy(model(images), labels).item() < 0.5 * before
    assert type(names["optimizer"]).__name__ == "Jorge"
    assert names["scheduler"].last_epoch == 20 * len(loader)
    assert int(names["optimizer"].state[model[0].weight]["step"]) == 80


def test_its_commands_exist():
    shell = " ".join(blocks("console"))
    assert set(re.findall(r"jorge-tune (\w+)", shell)) <= set(_COMMANDS)
    for name in _COMMANDS:
        assert f"`{name}" in README


def test_its_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (Path(__file__).parents[2] / target).exists(), target
