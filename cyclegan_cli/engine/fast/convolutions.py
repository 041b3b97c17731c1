"""Which convolution a layer is, and convolutions by other means in PyTorch's own operations."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["few_outputs", "is_depthwise", "is_filtered", "is_pointwise"]

_LEAST = 16  # channels: below, the transforms cost more than they save


def is_depthwise(layer: nn.Conv2d) -> bool:
    """3×3, stride 1, each of several channels by itself."""
    each = layer.groups == layer.in_channels == layer.out_channels > 1
    return each and layer.kernel_size == (3, 3) and layer.stride == (1, 1)


def is_pointwise(layer: nn.Conv2d) -> bool:
    """1×1, stride 1, all channels together."""
    return layer.kernel_size == (1, 1) and layer.groups == 1 and layer.stride == (1, 1)


def is_filtered(layer: nn.Conv2d) -> bool:
    """Whether Winograd's filtering computes it: 3×3, stride 1, of channels enough for it to pay."""
    whole = (layer.kernel_size, layer.stride, layer.groups) == ((3, 3), (1, 1), 1)
    return whole and min(layer.in_channels, layer.out_channels) >= _LEAST


def few_outputs(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A K×K convolution without padding to few channels: K×1 to K times as many, shifted, added.

    The processor's registers hold eight channels or more at a time: three would leave most of them
    empty. x: 1×C×H×W; weight: O×C×K×K. Returns 1×O×(H − K + 1)×(W − K + 1).
    """
    outputs, channels, height, width = weight.shape
    split = weight.permute(3, 0, 1, 2).reshape(width * outputs, channels, height, 1)
    columns = functional.conv2d(x, split)
    size = columns.shape[3] - width + 1
    total = columns[:, :outputs, :, :size].clone()
    for shift in range(1, width):
        total += columns[:, shift * outputs : (shift + 1) * outputs, :, shift : shift + size]
    return total if bias is None else total.add_(bias[:, None, None])
