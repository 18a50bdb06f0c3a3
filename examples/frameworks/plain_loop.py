"""A plain PyTorch loop."""

import os

import torch
from digits import network, parts, top1
from torch.nn import functional
from torch.utils.data import DataLoader

import jorge_tune

RECIPE = os.environ.get("JORGE_TUNE_RECIPE", "digits-sgd.yaml")


def main(epochs: int = 4) -> torch.optim.Optimizer:
    """Train, and report after each epoch."""
    torch.manual_seed(int(os.environ.get("JORGE_TUNE_SEED", 0)))
    train, validation = parts()
    model, loader = network(), DataLoader(train, batch_size=64, shuffle=True)
    optimizer = jorge_tune.optimizer_from_recipe(RECIPE, model)
    scheduler = jorge_tune.scheduler_from_recipe(RECIPE, optimizer, steps_per_epoch=len(loader))
    for epoch in range(epochs):
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
