"""Mean and variance: exact when merged, whatever the parts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cyclegan_cli.painting.by_torch import measure, normalise
from cyclegan_cli.painting.statistics import Moments


def values(height: int, offset: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    """Noise on a slope, so that strips' means differ."""
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 3, height, 7, generator=random) * scale + offset
    return noise + torch.linspace(0, 5 * scale, height)[:, None]


@settings(max_examples=30, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 39), max_size=6, unique=True),
    offset=st.sampled_from([0.0, -3.0, 1000.0]),
)
def test_strips_merge_to_the_moments_of_the_whole(cuts: list[int], offset: float) -> None:
    x = values(40, offset)
    parts = [measure(x[:, :, a:b]) for a, b in itertools.pairwise([0, *sorted(cuts), 40])]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    exact = x.double()
    assert merged.count == 280
    np.testing.assert_allclose(merged.mean, exact.mean((0, 2, 3)), rtol=1e-9, atol=1e-6)
    variance = exact.var((0, 2, 3), correction=0)
    np.testing.assert_allclose(merged.variance, variance, rtol=1e-5, atol=0)


def test_the_mean_of_the_variances_would_be_wrong() -> None:
    x = values(40)
    parts = [measure(x[:, :, :20]), measure(x[:, :, 20:])]
    right = parts[0].merge(parts[1]).variance
    wrong = (parts[0].variance + parts[1].variance) / 2
    assert (np.abs(right - wrong) > 0.3 * right).all()


@pytest.mark.parametrize("value", [0.0, 0.1, -0.7, 1 / 3, 12345.678])
def test_a_constant_has_no_variance_and_becomes_0(value: float) -> None:
    flat = torch.full((1, 2, 37, 53), value)
    moments = measure(flat)
    assert moments.mean.astype(np.float32).tolist() == [flat[0, 0, 0, 0].item()] * 2
    assert moments.variance.max().item() < 1e-20 * (1 + value * value)
    assert torch.equal(normalise(flat, moments, in_place=False), torch.zeros_like(flat))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_normalise_is_instance_norm(dtype: torch.dtype) -> None:
    x = values(12, offset=20.0).to(dtype)
    before = x.clone()
    y = normalise(x, measure(x), in_place=False)
    assert torch.equal(x, before)
    assert y.dtype == dtype
    exact = torch.nn.functional.instance_norm(x.double(), eps=1e-5)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
    torch.testing.assert_close(y.double(), exact, rtol=tolerance, atol=tolerance)
    assert torch.equal(normalise(x, measure(x), in_place=True), y)


def test_blend_moves_means_and_variances() -> None:
    old = Moments(10, np.array([0.0, 2.0]), np.array([10.0, 40.0]))
    new = Moments(20, np.array([1.0, 2.0]), np.array([60.0, 80.0]))
    mixed = old.blend(new, 0.25)
    assert mixed.count == 10
    assert mixed.mean.tolist() == [0.25, 2.0]
    assert mixed.variance.tolist() == [1.5, 4.0]
