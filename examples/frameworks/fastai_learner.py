"""fastai: the recipe's optimizer in an OptimWrapper, and a callback that steps the schedule and reports."""

import os

import torch
from digits import network, parts, top1
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import OptimWrapper
from torch.nn import functional
from torch.utils.data import DataLoader

import jorge_tune

RECIPE = os.environ.get("JORGE_TUNE_RECIPE", "digits-sgd.yaml")


class FollowRecipe(Callback):
    """Steps the recipe's schedule after each optimizer step, which fastai would leave at one rate, and reports."""

    def before_fit(self) -> None:
        """Make the schedule; its first step sets the rates of all groups, which `fit` has set to one."""
        self.schedule = jorge_tune.scheduler_from_recipe(RECIPE, self.learn.recipe, len(self.learn.dls.train))

    def after_step(self) -> None:
        """Step the schedule."""
        self.schedule.step()

    def after_epoch(self) -> None:
        """Report."""
        score = top1(self.learn.model, parts()[1])
        jorge_tune.report(step=self.learn.train_iter, epoch=self.learn.epoch + 1, top1=score)


def main(epochs: int = 4) -> torch.optim.Optimizer:
    """Train."""
    torch.manual_seed(int(os.environ.get("JORGE_TUNE_SEED", 0)))
    loaders = DataLoaders(*(DataLoader(part, batch_size=64, shuffle=True) for part in parts()))
    model = network()
    optimizer = jorge_tune.optimizer_from_recipe(RECIPE, model)
    made = {"opt_func": lambda params, **kwargs: OptimWrapper(opt=optimizer), "cbs": FollowRecipe()}
    learn = Learner(loaders, model, loss_func=functional.cross_entropy, **made)
    learn.recipe = optimizer
    learn.fit(epochs, lr=[group["lr"] for group in optimizer.param_groups])
    return optimizer


if __name__ == "__main__":
    main()
