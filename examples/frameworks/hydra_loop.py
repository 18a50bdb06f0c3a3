"""Hydra: optimizer and schedule by `_target_`, in `hydra_config.yaml`."""

import os
from pathlib import Path

import torch
from digits import network, parts, top1
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.nn import functional
from torch.utils.data import DataLoader

import jorge_tune


def main(epochs: int | None = None) -> torch.optim.Optimizer:
    """Train, and report after each epoch."""
    config = OmegaConf.load(Path(__file__).with_name("hydra_config.yaml"))
    torch.manual_seed(int(os.environ.get("JORGE_TUNE_SEED", 0)))
    train, validation = parts()
    model, loader = network(), DataLoader(train, batch_size=64, shuffle=True)
    optimizer = instantiate(config.optimizer, model=model)
    scheduler = instantiate(config.scheduler, optimizer=optimizer, steps_per_epoch=len(loader))
    for epoch in range(epochs or config.epochs):
        model.train()
        for images, labels in loader:
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            scheduler.step()
        jorge_tune.report(step=(epoch + 1) * len(loader), epoch=epoch + 1, top1=top1(model, validation))
    return optimizer


if __name__ == "__main__":
    main()
