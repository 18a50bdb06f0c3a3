"""Networks of our own, small enough for a laptop: a CNN and an MLP for digits, the ResNets of the CIFAR experiments."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional

_NARROWEST = 8  # channels of a ResNet's first stage


def small_cnn(*, in_channels: int = 1, num_classes: int = 10, width: int = 32, batch_norm: bool = True) -> nn.Module:
    """Three 3x3 convolutions, normalised or not, and one linear layer; 29 thousand parameters at width 32.

    Shape:
        (batch, in_channels, height, width) -> (batch, num_classes), height and width at least 2.
    """
    return nn.Sequential(
        _convolution(in_channels, width, batch_norm=batch_norm),
        nn.ReLU(inplace=True),
        _convolution(width, width, batch_norm=batch_norm),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        _convolution(width, 2 * width, batch_norm=batch_norm),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, num_classes),
    )


MLP_FEATURES = 64  # the values of an 8x8 image with one channel


def mlp(
    *, in_features: int = MLP_FEATURES, hidden: Sequence[int] = (128, 64), num_classes: int = 10, dropout: float = 0.0
) -> nn.Module:
    """Linear layers with ReLU between them, over the flattened image.

    Shape:
        (batch, ...) with in_features values each -> (batch, num_classes).
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for size in hidden:
        layers += [nn.Linear(in_features, size), nn.ReLU(inplace=True)]
        if dropout:
            layers.append(nn.Dropout(dropout))
        in_features = size
    return nn.Sequential(*layers, nn.Linear(in_features, num_classes))


def cifar_resnet(*, depth: int = 20, width: int = 16, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """The CIFAR ResNet of three stages, projecting where the shape changes; 0.27 million parameters at depth 20.

    Shape:
        (batch, in_channels, height, width) -> (batch, num_classes), height and width at least 4.

    Args:
        depth: 6 n + 2 layers (8, 14, 20, 32, 44, 56, 110), n blocks per stage.
        width: channels of the first stage, at least 8; the next two have twice and four times as many.

    Raises:
        ValueError: there is no such depth, or the width is less than 8: below, oneDNN 3.12 writes beyond its memory in
            the weights' gradient of the projections (strided 1x1 convolutions, channels last, CPUs with AVX2).

    Reference:
        He et al., Deep Residual Learning for Image Recognition, Sec. 4.2.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth must be 6 n + 2 (8, 14, 20, 32, ...), got {depth!r}")
    if width < _NARROWEST:
        raise ValueError(f"width must be at least {_NARROWEST}, got {width!r}")
    blocks_per_stage = (depth - 2) // 6
    layers: list[nn.Module] = [_convolution(in_channels, width), nn.ReLU(inplace=True)]
    channels = width
    for stage in range(3):
        for block in range(blocks_per_stage):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(_ResidualBlock(channels, width * 2**stage, stride))
            channels = width * 2**stage
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


class _ResidualBlock(nn.Module):
    """relu(shortcut(x) + two 3x3 convolutions of x)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(in_channels, out_channels, stride=stride)
        self.second = _convolution(out_channels, out_channels)
        same_shape = stride == 1 and in_channels == out_channels
        self.shortcut = (
            nn.Identity() if same_shape else _convolution(in_channels, out_channels, kernel_size=1, stride=stride)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Shape: (batch, in, height, width) -> (batch, out, height / stride, width / stride)."""
        inner = self.second(functional.relu(self.first(images), inplace=True))
        return functional.relu(inner + self.shortcut(images), inplace=True)


def _convolution(
    in_channels: int, out_channels: int, *, kernel_size: int = 3, stride: int = 1, batch_norm: bool = True
) -> nn.Module:
    """A convolution with batch normalisation, or with a bias."""
    padding = kernel_size // 2
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=padding, bias=not batch_norm)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels)) if batch_norm else convolution


OWN_MODELS: dict[str, Callable[..., nn.Module]] = {"cifar_resnet": cifar_resnet, "mlp": mlp, "small_cnn": small_cnn}
