"""Hugging Face's Trainer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.frameworks.small import data, network, same, weights, with_every_member

transformers = pytest.importorskip(
    "transformers", reason="transformers is absent: pip install 'jorge-tune[test-frameworks]'"
)
pytest.importorskip("accelerate", reason="Accelerate is absent: pip install 'jorge-tune[test-frameworks]'")


class Classifier(nn.Module):
    def __init__(self, seed):
        super().__init__()
        self.network = network(seed)

    def forward(self, inputs, labels):
        scores = self.network(inputs)
        return {"loss": nn.functional.cross_entropy(scores, labels), "logits": scores}


class Rows(torch.utils.data.Dataset):
    def __init__(self):
        self.data = data()

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        inputs, labels = self.data[index]
        return {"inputs": inputs, "labels": labels}


def trainer(optimizer_class, kwargs, folder, *, seed=0):
    settings = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=8, per_device_train_batch_size=8, save_strategy="steps", save_steps=4,
        logging_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, seed=3, lr_scheduler_type="linear",
        dataloader_pin_memory=False, learning_rate=kwargs["lr"],
    )  # fmt: skip
    return transformers.Trainer(
        model=Classifier(seed),
        args=settings,
        train_dataset=Rows(),
        optimizer_cls_and_kwargs=(optimizer_class, kwargs),
    )


@with_every_member
def test_a_resumed_run_ends_as_an_uninterrupted_one(optimizer_class, kwargs, tmp_path):
    whole = trainer(optimizer_class, kwargs, tmp_path / "whole")
    start = weights(whole.model)
    assert whole.train().global_step == 8
    assert not same(start, weights(whole.model))

    resumed = trainer(optimizer_class, kwargs, tmp_path / "resumed", seed=1)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert same(weights(resumed.model), weights(whole.model))
