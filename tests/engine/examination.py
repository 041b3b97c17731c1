"""How the engine and the naive computation are set side by side."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cyclegan_cli.engine.cyclegan import CycleGAN
from cyclegan_cli.settings import GeneratorSpec, TrainSettings
from tests.engine import naive

TOLERANCE = 1e-6  # relative, in float64


def spec_of(recipe: naive.Recipe) -> GeneratorSpec:
    """The engine's description of the recipe's generator."""
    return GeneratorSpec(
        name="examined",
        blocks=recipe.blocks,
        width=recipe.width,
        separable=recipe.compact,
        upsample="resize" if recipe.compact else "transpose",
        norm="none" if recipe.free else "instance",
        residual=recipe.free,
    )


def settings_of(recipe: naive.Recipe, history: int = 50, seed: int = 0) -> TrainSettings:
    """The engine's settings for the recipe."""
    assert recipe.gan in ("lsgan", "vanilla", "hinge")
    return TrainSettings(
        generator=spec_of(recipe),
        gan=recipe.gan,
        lambda_cycle=recipe.lambda_cycle,
        lambda_identity=recipe.lambda_identity,
        lr=recipe.lr,
        beta1=recipe.beta1,
        history=history,
        seed=seed,
    )


def draw(shapes: dict[str, tuple[int, ...]], seed: int, spread: float = 1.5) -> naive.Weights:
    """Float64 weights large enough that tanh bends, hinges turn and every bias counts."""
    source = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        fan_in = shape[1] * shape[2] * shape[3] if len(shape) == 4 else 100
        noise = torch.randn(shape, generator=source, dtype=torch.float64)
        weights[name] = noise * (spread / fan_in**0.5)
    return weights


def draw_all(recipe: naive.Recipe, seed: int = 1) -> dict[str, naive.Weights]:
    """Weights for all four networks."""
    generator, discriminator = naive.generator_shapes(recipe), naive.discriminator_shapes()
    shapes = {"G": generator, "F": generator, "D_X": discriminator, "D_Y": discriminator}
    # Without InstanceNorm, large weights would grow through the blocks until tanh is flat.
    spread = 0.5 if recipe.free else 1.5
    return {n: draw(s, 10 * seed + i, spread) for i, (n, s) in enumerate(shapes.items())}


def pictures(n: int, height: int, width: int, seed: int) -> Tensor:
    """Float64, n×3×height×width, uniform in [−1, 1)."""
    source = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(n, 3, height, width, generator=source, dtype=torch.float64) - 1


@torch.no_grad()
def adopt(network: nn.Module, weights: naive.Weights) -> None:
    """Give ``network``, made float64, the naive weights: in order, every shape equal."""
    network.double()
    parameters = list(network.parameters())
    assert [tuple(p.shape) for p in parameters] == [tuple(w.shape) for w in weights.values()]
    for parameter, weight in zip(parameters, weights.values(), strict=True):
        parameter.copy_(weight)


def engine_like(
    recipe: naive.Recipe, weights: dict[str, naive.Weights], history: int = 50, seed: int = 0
) -> CycleGAN:
    """A float64 CycleGAN with the naive weights."""
    model = CycleGAN(settings_of(recipe, history, seed))
    for name, network in model.networks().items():
        adopt(network, weights[name])
    return model


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """max |found − wanted| / max |wanted|; both must be float64, of one shape."""
    assert found.dtype == wanted.dtype == torch.float64
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max() / wanted.abs().max())


def compare_gradients(network: nn.Module, wanted: naive.Weights, free: bool = False) -> None:
    """Every parameter's gradient; those that are 0 by InstanceNorm must be 0 to rounding."""
    largest = max(float(g.abs().max()) for g in wanted.values())
    parameters = list(network.named_parameters())
    for (label, parameter), (name, gradient) in zip(parameters, wanted.items(), strict=True):
        assert parameter.grad is not None, label
        if naive.silent(name, free):
            assert float(parameter.grad.abs().max()) < 1e-12 * largest, label
            assert float(gradient.abs().max()) < 1e-12 * largest, name
        elif not gradient.any():  # a hinge whose two sides balance
            assert not parameter.grad.any(), label
        else:
            assert float(gradient.abs().max()) > 1e-9 * largest, name
            assert relative_error(parameter.grad, gradient) < TOLERANCE, label


def compare_weights(model: CycleGAN, training: naive.Training, lr: float) -> None:
    """Every weight, its distance measured against the step size: a step moves a weight by lr.

    Where the true gradient is 0, Adam divides rounding by rounding + 1e-8: of that motion, both
    must see next to nothing.
    """
    free = model.settings.generator.norm == "none"
    for network_name, network in model.networks().items():
        wanted = training.weights[network_name]
        pairs = zip(network.named_parameters(), wanted.items(), strict=True)
        for (label, parameter), (name, weight) in pairs:
            assert parameter.dtype == torch.float64
            distance = float((parameter.detach() - weight).abs().max())
            tolerance = 1e-4 if naive.silent(name, free) else TOLERANCE
            assert distance < tolerance * lr, f"{network_name}.{label}"
