"""The examiner examined: the naive computation against numbers worked out by hand."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tests.engine import naive
from tests.engine.examination import draw_all, pictures


def picture(rows: list[list[float]]) -> Tensor:
    return torch.tensor([[rows]], dtype=torch.float64)


def test_reflection_does_not_repeat_the_edge() -> None:
    row = picture([[1, 2, 3, 4]] * 4)
    assert naive.reflect(row, 3)[0, 0, 0].tolist() == [4, 3, 2, 1, 2, 3, 4, 3, 2, 1]


def test_convolution_is_a_correlation_with_zeros_around() -> None:
    x = picture([[1, 2], [3, 4]])
    kernel = picture([[1, 0, 0], [0, 0, 0], [0, 0, 10]])
    y = naive.convolve(x, kernel, torch.tensor([0.5], dtype=torch.float64), 1, 1)
    assert y[0, 0].tolist() == [[40.5, 0.5], [0.5, 1.5]]


def test_convolution_with_stride_2_looks_at_every_other_place() -> None:
    x = picture([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]])
    centre = picture([[0, 0, 0], [0, 1, 0], [0, 0, 0]])
    y = naive.convolve(x, centre, torch.zeros(1, dtype=torch.float64), 2, 1)
    assert y[0, 0].tolist() == [[1, 3], [9, 11]]


def test_transposed_convolution_stamps_the_kernel() -> None:
    kernel = picture([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    y = naive.scatter(picture([[1, 10]]), kernel, torch.zeros(1, dtype=torch.float64))
    assert y[0, 0].tolist() == [[5, 6 + 40, 50, 60], [8, 9 + 70, 80, 90]]


def test_normalisation_divides_by_the_biased_deviation() -> None:
    y = naive.normalise(picture([[1, 3], [5, 7]]))
    deviation = math.sqrt(5 + 1e-5)
    expected = picture([[-3 / deviation, -1 / deviation], [1 / deviation, 3 / deviation]])
    assert torch.allclose(y, expected, rtol=1e-14, atol=0)


def test_losses_by_hand() -> None:
    real, fake = picture([[2.0, 0.0]]), picture([[-3.0, 1.0]])
    assert float(naive.fooling(fake, "lsgan")) == 8.0
    assert float(naive.telling(real, fake, "lsgan")) == (1 + 5) / 2
    assert float(naive.fooling(fake, "hinge")) == 1.0
    assert float(naive.telling(real, fake, "hinge")) == (0.5 + 1) / 2
    zero = picture([[0.0]])
    assert math.isclose(float(naive.fooling(zero, "vanilla")), math.log(2))
    assert math.isclose(float(naive.telling(zero, zero, "vanilla")), math.log(2))


def test_first_step_of_adam_moves_by_the_step_size_against_the_gradient() -> None:
    training = naive.begin({"G": {"w": torch.zeros(2, dtype=torch.float64)}})
    training.steps = 1
    slope = torch.tensor([3.0, -0.01], dtype=torch.float64)
    naive.adam(training, "G", {"w": slope}, naive.Recipe(lr=0.1))
    moved = training.weights["G"]["w"]
    expected = torch.tensor([-0.1, 0.1], dtype=torch.float64)
    assert torch.allclose(moved, expected, rtol=2e-6, atol=0)


def test_gradients_agree_with_differences() -> None:
    recipe = naive.Recipe(blocks=1, width=3)
    weights = draw_all(recipe)
    x, y = pictures(1, 32, 32, 5), pictures(1, 32, 32, 6)
    report = naive.step(naive.begin(weights), x, y, recipe)
    source = torch.Generator().manual_seed(7)
    for network in ("G", "F"):
        way = {
            k: torch.randn(v.shape, generator=source, dtype=torch.float64)
            for k, v in weights[network].items()
        }
        ends = []
        for sign in (1, -1):
            moved = {k: v + sign * 1e-9 * way[k] for k, v in weights[network].items()}
            terms, _, _ = naive.generators_objective({**weights, network: moved}, x, y, recipe)
            ends.append(float(sum(terms.values())))
        slope = sum(float((g * way[k]).sum()) for k, g in report.gradients[network].items())
        assert math.isclose((ends[0] - ends[1]) / 2e-9, slope, rel_tol=1e-4)
