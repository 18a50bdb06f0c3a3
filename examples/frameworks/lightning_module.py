"""Lightning: `configure_optimizers` from a recipe, and a callback that reports."""

import os

import lightning
import torch
from digits import network, parts, top1
from torch.nn import functional
from torch.utils.data import DataLoader

import jorge_tune

RECIPE = os.environ.get("JORGE_TUNE_RECIPE", "digits-sgd.yaml")


class Digits(lightning.LightningModule):
    """The network, trained by a recipe."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        """The loss of a batch."""
        return functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> dict:
        """The recipe's optimizer and schedule; the schedule counts optimizer steps."""
        optimizer = jorge_tune.optimizer_from_recipe(RECIPE, self.network)
        steps = self.trainer.estimated_stepping_batches // self.trainer.max_epochs
        scheduler = jorge_tune.scheduler_from_recipe(RECIPE, optimizer, steps_per_epoch=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Report(lightning.Callback):
    """Reports after each epoch, and stops where the run is asked to."""

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Digits) -> None:
        """Report."""
        score = top1(module.network, parts()[1])
        jorge_tune.report(step=trainer.global_step, epoch=trainer.current_epoch + 1, top1=score)
        trainer.should_stop = jorge_tune.should_stop()


def main(epochs: int = 4) -> torch.optim.Optimizer:
    """Train."""
    lightning.seed_everything(int(os.environ.get("JORGE_TUNE_SEED", 0)), verbose=False)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = lightning.Trainer(max_epochs=epochs, accelerator="cpu", callbacks=[Report()], **quiet)
    trainer.fit(Digits(), DataLoader(parts()[0], batch_size=64, shuffle=True))
    return trainer.optimizers[0]


if __name__ == "__main__":
    main()
