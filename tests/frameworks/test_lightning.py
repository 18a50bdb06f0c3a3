from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from tests.frameworks.small import data, loss_of, network, same, weights, with_every_member

lightning = pytest.importorskip("lightning", reason="Lightning is absent: pip install 'jorge-tune[test-frameworks]'")

pytestmark = [
    # Lightning asks torch's private _pytree for a class that newer torch deprecates.
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"),
    # 32 rows in four batches are all there are: they need no loader processes.
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
]


def module(optimizer_class, kwargs, seed=0):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = network(seed)

        def training_step(self, batch, index):
            return loss_of(self.network, *batch)

        def configure_optimizers(self):
            optimizer = optimizer_class(self.parameters(), **kwargs)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)]

    return Module()


def trainer(epochs):
    return lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False,
    )  # fmt: skip


def batches():
    return DataLoader(data(), batch_size=8)


@with_every_member
def test_a_resumed_fit_ends_as_an_uninterrupted_one(optimizer_class, kwargs, tmp_path):
    whole = module(optimizer_class, kwargs)
    trainer(2).fit(whole, batches())

    half = module(optimizer_class, kwargs)
    first = trainer(1)
    first.fit(half, batches())
    first.save_checkpoint(tmp_path / "half.ckpt")
    assert not same(weights(half), weights(whole))

    resumed = module(optimizer_class, kwargs, seed=1)
    second = trainer(2)
    second.fit(resumed, batches(), ckpt_path=tmp_path / "half.ckpt")
    assert second.global_step == 8
    assert same(weights(resumed), weights(whole))
