from __future__ import annotations

import pytest
from torch import nn

from tests.frameworks.small import data, network, same, weights, with_every_member

skorch = pytest.importorskip("skorch", reason="skorch is absent: pip install 'jorge-tune[test-frameworks]'")


class Module(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        self.network = network(seed)

    def forward(self, X):
        return self.network(X)


def classifier(optimizer_class, kwargs, seed=0):
    return skorch.NeuralNetClassifier(
        Module,
        criterion=nn.CrossEntropyLoss,
        optimizer=optimizer_class,
        train_split=None,
        max_epochs=2,
        batch_size=8,
        verbose=0,
        module__seed=seed,
        **{f"optimizer__{name}": value for name, value in kwargs.items()},
    )


@with_every_member
def test_saved_parameters_are_loaded_twice_and_gone_on_from(optimizer_class, kwargs, tmp_path):
    inputs, labels = (tensor.numpy() for tensor in data().tensors)
    net = classifier(optimizer_class, kwargs).fit(inputs, labels)
    files = {"f_params": tmp_path / "params.pt", "f_optimizer": tmp_path / "optimizer.pt"}
    net.save_params(**files)
    saved = weights(net.module_)
    net.partial_fit(inputs, labels)
    end = weights(net.module_)
    assert not same(saved, end)

    other = classifier(optimizer_class, kwargs, seed=1).initialize()
    for _ in range(2):
        other.load_params(**files)
        assert same(weights(other.module_), saved)
        other.partial_fit(inputs, labels)
        assert same(weights(other.module_), end)
