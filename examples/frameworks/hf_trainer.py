"""Hugging Face's Trainer with `optimizers=`: the recipe's optimizer and schedule as they are."""

import os

import torch
import transformers
from digits import network, parts, top1
from torch.nn import functional

import jorge_tune

RECIPE = os.environ.get("JORGE_TUNE_RECIPE", "digits-sgd.yaml")


class Digits(torch.nn.Sequential):
    """The network, with the loss that Trainer wants."""

    def forward(self, images: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor | dict:
        """The scores; with labels also their loss."""
        scores = super().forward(images)
        return scores if labels is None else {"loss": functional.cross_entropy(scores, labels), "logits": scores}


class Report(transformers.TrainerCallback):
    """Reports after each epoch."""

    def on_epoch_end(self, args, state, control, model=None, **kwargs) -> None:
        """Report."""
        jorge_tune.report(step=state.global_step, epoch=round(state.epoch), top1=top1(model, parts()[1]))


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
    optimizer = jorge_tune.optimizer_from_recipe(RECIPE, model)
    scheduler = jorge_tune.scheduler_from_recipe(RECIPE, optimizer, steps_per_epoch=-(-len(rows) // 64))
    given = {"train_dataset": rows, "callbacks": [Report()], "optimizers": (optimizer, scheduler)}
    transformers.Trainer(model, arguments, **given).train()
    return optimizer


if __name__ == "__main__":
    main()
