"""Hugging Face's Trainer with `optimizer_cls_and_kwargs`, for where Trainer must make the optimizer itself (FSDP, say).

Trainer makes parameter groups of its own, with its own weight decay (0 by default): the recipe's would be lost without
a word. Groups that come under "params" take their place.
"""

import os

import torch
import transformers
from digits import network, parts
from hf_trainer import Digits, Report

import jorge_tune

RECIPE = os.environ.get("JORGE_TUNE_RECIPE", "digits-sgd.yaml")


def main(epochs: int = 4) -> torch.optim.Optimizer:
    """Train."""
    seed, train = int(os.environ.get("JORGE_TUNE_SEED", 0)), parts()[0]
    rows = [{"images": images, "labels": labels} for images, labels in train]
    settings = {"num_train_epochs": epochs, "per_device_train_batch_size": 64, "seed": seed, "max_grad_norm": 0.0}
    quiet = {
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "use_cpu": True,
        "logging_strategy": "no",
    }
    arguments = transformers.TrainingArguments("trainer", dataloader_pin_memory=False, **settings, **quiet)
    transformers.set_seed(seed)
    model = Digits(*network())
    recipe = jorge_tune.optimizer_from_recipe(RECIPE, model)
    made = (type(recipe), {"params": recipe.param_groups})
    given = {"train_dataset": rows, "callbacks": [Report()], "optimizer_cls_and_kwargs": made}
    trainer = transformers.Trainer(model, arguments, **given)
    optimizer, steps = trainer.create_optimizer(), -(-len(rows) // 64)
    trainer.lr_scheduler = jorge_tune.scheduler_from_recipe(RECIPE, optimizer, steps_per_epoch=steps)
    trainer.train()
    return optimizer


if __name__ == "__main__":
    main()
