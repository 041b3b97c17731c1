"""The four networks: every layer, every count, the forward pass and the first weights."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from cyclegan_cli.engine.cyclegan import CycleGAN
from cyclegan_cli.engine.losses import luma
from cyclegan_cli.engine.networks import Discriminator, Generator, count_parameters, initialise
from cyclegan_cli.randomness import stream_seed
from cyclegan_cli.settings import GENERATORS, GeneratorSpec, TrainSettings
from tests.engine import naive
from tests.engine.examination import TOLERANCE, adopt, draw, pictures, relative_error

Layer = tuple[object, ...]
RECIPES = {
    "resnet9": naive.Recipe(),
    "resnet6": naive.Recipe(blocks=6),
    "mobile": naive.Recipe(width=24, compact=True),
    "brush": naive.Recipe(width=24, compact=True, free=True),
}


def layers(network: nn.Module) -> list[Layer]:
    """Every layer in order, with all that decides what it computes."""
    found: list[Layer] = []
    for module in network.modules():
        if list(module.children()):
            continue
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            assert module.bias is not None
            assert module.dilation == (1, 1)
            assert module.padding_mode == "zeros"
            entry: Layer = (
                type(module).__name__,
                *(module.in_channels, module.out_channels, module.kernel_size),
                *(module.stride, module.padding),
            )
            if isinstance(module, nn.ConvTranspose2d):
                entry += (module.output_padding,)
            if module.groups != 1:
                entry += (f"groups {module.groups}",)
        elif isinstance(module, nn.InstanceNorm2d):
            assert (module.eps, module.affine, module.track_running_stats) == (1e-5, False, False)
            entry = ("InstanceNorm2d", module.num_features)
        elif isinstance(module, nn.ReflectionPad2d):
            entry = ("ReflectionPad2d", module.padding)
        elif isinstance(module, nn.LeakyReLU):
            entry = ("LeakyReLU", module.negative_slope)
        elif isinstance(module, nn.Upsample):
            entry = ("Upsample", module.scale_factor, module.mode)
        else:
            assert isinstance(module, nn.ReLU | nn.Tanh)
            entry = (type(module).__name__,)
        found.append(entry)
    return found


def conv(inputs: int, outputs: int, size: int, stride: int = 1, padding: int = 0) -> Layer:
    pairs = ((n, n) for n in (size, stride, padding))
    return ("Conv2d", inputs, outputs, *pairs)


def reflection(margin: int) -> Layer:
    return ("ReflectionPad2d", (margin,) * 4)


def resnet(blocks: int) -> list[Layer]:
    """The paper's generator, layer by layer."""
    half = [reflection(1), conv(256, 256, 3), ("InstanceNorm2d", 256)]
    up = ((3, 3), (2, 2), (1, 1), (1, 1))
    return [
        *(reflection(3), conv(3, 64, 7), ("InstanceNorm2d", 64), ("ReLU",)),
        *(conv(64, 128, 3, 2, 1), ("InstanceNorm2d", 128), ("ReLU",)),
        *(conv(128, 256, 3, 2, 1), ("InstanceNorm2d", 256), ("ReLU",)),
        *([*half, ("ReLU",), *half] * blocks),
        *(("ConvTranspose2d", 256, 128, *up), ("InstanceNorm2d", 128), ("ReLU",)),
        *(("ConvTranspose2d", 128, 64, *up), ("InstanceNorm2d", 64), ("ReLU",)),
        *(reflection(3), conv(64, 3, 7), ("Tanh",)),
    ]


PATCHGAN: list[Layer] = [
    *(conv(3, 64, 4, 2, 1), ("LeakyReLU", 0.2)),
    *(conv(64, 128, 4, 2, 1), ("InstanceNorm2d", 128), ("LeakyReLU", 0.2)),
    *(conv(128, 256, 4, 2, 1), ("InstanceNorm2d", 256), ("LeakyReLU", 0.2)),
    *(conv(256, 512, 4, 1, 1), ("InstanceNorm2d", 512), ("LeakyReLU", 0.2)),
    conv(512, 1, 4, 1, 1),
]


@torch.no_grad()
def multiply_adds(name: str, at_output: bool) -> int:
    """Multiply-adds for one 256² picture, from the shapes that layers meet.

    Counted at 64², where each layer has a sixteenth of its pixels. ``at_output``: count a
    transposed convolution as if every output pixel met the whole kernel.
    """
    total = 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.ConvTranspose2d):
            pixels = output[0, 0].numel() if at_output else inputs[0][0, 0].numel()
            total += pixels * module.weight.numel()

    network = Generator(GENERATORS[name])
    for module in network.modules():
        module.register_forward_hook(count)
    network(torch.zeros(1, 3, 64, 64))
    return 16 * total


def on_meta(name: str) -> Generator:
    """The generator without its weights."""
    with torch.device("meta"):
        return Generator(GENERATORS[name])


@pytest.mark.parametrize(("name", "blocks"), [("resnet9", 9), ("resnet6", 6)])
def test_generator_layers(name: str, blocks: int) -> None:
    assert layers(on_meta(name)) == resnet(blocks)


def test_discriminator_layers() -> None:
    assert layers(Discriminator()) == PATCHGAN


def test_mobile_layers() -> None:
    def separable(inputs: int, outputs: int) -> list[Layer]:
        depth = (*conv(inputs, inputs, 3), f"groups {inputs}")
        return [reflection(1), depth, conv(inputs, outputs, 1), ("InstanceNorm2d", outputs)]

    half = separable(96, 96)
    assert layers(on_meta("mobile")) == [
        *(reflection(3), conv(3, 24, 7), ("InstanceNorm2d", 24), ("ReLU",)),
        *(conv(24, 48, 3, 2, 1), ("InstanceNorm2d", 48), ("ReLU",)),
        *(conv(48, 96, 3, 2, 1), ("InstanceNorm2d", 96), ("ReLU",)),
        *([*half, ("ReLU",), *half] * 9),
        *(("Upsample", 2.0, "nearest"), *separable(96, 48), ("ReLU",)),
        *(("Upsample", 2.0, "nearest"), *separable(48, 24), ("ReLU",)),
        *(reflection(3), conv(24, 3, 7), ("Tanh",)),
    ]


def test_parameter_counts() -> None:
    assert count_parameters(on_meta("resnet9")) == 11_378_179
    assert count_parameters(Discriminator()) == 2_764_737
    for name, recipe in RECIPES.items():
        shapes = naive.generator_shapes(recipe).values()
        assert count_parameters(on_meta(name)) == sum(math.prod(shape) for shape in shapes)


def test_multiply_adds() -> None:
    """By hand: pixels × outputs × inputs × kernel, for each convolution of resnet9 at 256²."""
    ends = 2 * 256**2 * 64 * 3 * 49
    halves = 128**2 * 128 * 64 * 9 + 64**2 * 256 * 128 * 9
    blocks = 18 * 64**2 * 256 * 256 * 9
    doubles = 64**2 * 256 * 128 * 9 + 128**2 * 128 * 64 * 9
    exact, paper = multiply_adds("resnet9", False), multiply_adds("resnet9", True)
    assert exact == ends + halves + blocks + doubles
    assert paper == ends + halves + blocks + 4 * doubles
    assert round(exact / 1e9, 1) == 49.6
    assert round(paper / 1e9, 1) == 56.8
    assert multiply_adds("mobile", False) * 20 <= exact
    assert multiply_adds("mobile", True) * 20 <= paper


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(("batch", "height", "width"), [(1, 32, 32), (2, 32, 48)])
def test_generator_forward(name: str, batch: int, height: int, width: int) -> None:
    network, recipe = Generator(GENERATORS[name]), RECIPES[name]
    weights = draw(naive.generator_shapes(recipe), 1)
    adopt(network, weights)
    x = pictures(batch, height, width, 2)
    with torch.no_grad():
        found, wanted = network(x), naive.generate(weights, x, recipe)
    assert found.shape == (batch, 3, height, width)
    assert relative_error(found, wanted) < TOLERANCE
    assert float(wanted.abs().max()) > 0.9  # tanh bends here


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 64), (40, 72)])
def test_discriminator_forward(height: int, width: int) -> None:
    network, weights = Discriminator(), draw(naive.discriminator_shapes(), 3)
    adopt(network, weights)
    x = pictures(2, height, width, 4)
    with torch.no_grad():
        found, wanted = network(x), naive.judge(weights, x)
    assert found.shape == (2, 1, height // 8 - 2, width // 8 - 2)
    assert relative_error(found, wanted) < TOLERANCE


def test_discriminator_answers_30_by_30_patches_of_70_pixels() -> None:
    network = Discriminator().double()
    network.model = nn.Sequential(*(m for m in network.model if isinstance(m, nn.Conv2d)))
    x = pictures(1, 256, 256, 5).requires_grad_()
    logits = network(x)
    assert logits.shape == (1, 1, 30, 30)
    (slope,) = torch.autograd.grad(logits[0, 0, 15, 15], x)
    rows = slope.abs().sum((0, 1, 3)).nonzero()
    assert int(rows.max() - rows.min()) + 1 == 70  # InstanceNorm aside


@pytest.mark.parametrize("name", ["mobile", "discriminator"])
@torch.no_grad()
def test_first_weights_are_normal_with_deviation_2_percent(name: str) -> None:
    network = Discriminator() if name == "discriminator" else Generator(GENERATORS[name])
    initialise(network, torch.Generator().manual_seed(stream_seed(0, "weights", "G")))
    seen = 0
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            assert module.bias is not None
            assert not module.bias.any()
            n = module.weight.numel()
            seen += n + module.bias.numel()
            mean, deviation = float(module.weight.mean()), float(module.weight.std())
            assert abs(mean) < 4 * 0.02 / n**0.5
            assert abs(deviation / 0.02 - 1) < 4 / (2 * n) ** 0.5
    assert seen == count_parameters(network)
    every = torch.cat([p.flatten() for p in network.parameters() if p.dim() == 4]).abs() / 0.02
    for sigmas, share in ((1, 0.6827), (2, 0.9545), (3, 0.9973)):  # a normal distribution's
        assert abs(float((every < sigmas).float().mean()) - share) < 0.005


@torch.no_grad()
def test_a_brush_starts_near_the_identity_and_sees_no_further_than_its_surroundings() -> None:
    network = Generator(GENERATORS["brush"])
    initialise(network, torch.Generator().manual_seed(3))
    x = pictures(1, 64, 400, 1).float()
    y = network(x)
    assert 1e-4 < float((y - x).abs().mean()) < 0.1
    x[..., -32:] = 1.0  # far away: with InstanceNorm, every pixel would change
    assert torch.equal(network(x)[..., :100], y[..., :100])


@torch.no_grad()
def test_a_scene_generator_smooths_the_chroma_of_what_it_adds_and_keeps_its_luma() -> None:
    plain = Generator(replace(GENERATORS["scene"], smooth_chroma=False))
    initialise(plain, torch.Generator().manual_seed(3))
    plain.decoder[-1].weight.normal_(0, 0.05)
    network = Generator(GENERATORS["scene"])
    initialise(network, torch.Generator().manual_seed(4))
    network.load_state_dict(network.state_dict() | plain.state_dict())
    x = torch.cat([pictures(1, 64, 80, 1), pictures(1, 64, 80, 2)[:, :1]], dim=1).float()
    before, after = plain(x), network(x)
    assert torch.allclose(luma(before), luma(after), atol=1e-6)
    chroma = [(painted - luma(painted))[..., 8:-8, 8:-8] for painted in (before, after)]
    checked = torch.ones(2, 2) - 2 * torch.eye(2)  # the highest frequencies
    high = [functional.conv2d(c, checked.expand(3, 1, 2, 2), groups=3).std() for c in chroma]
    mean = [functional.avg_pool2d(c, 16).std() for c in chroma]
    assert high[1] < 0.25 * high[0]
    assert 0.5 * mean[0] < mean[1] < 1.2 * mean[0]


def test_the_chroma_filter_is_not_trained() -> None:
    settings = TrainSettings(generator=replace(GENERATORS["scene"], width=2, blocks=1), ema=0.9)
    model = CycleGAN(settings)
    before = {name: value.clone() for name, value in model.G.state_dict().items()}
    x, y = (pictures(1, 64, 64, seed).float() for seed in (1, 2))
    model.step(x, y, 1e-3)
    for network in (model.G, model.shown_G):
        same = {n for n, value in network.state_dict().items() if torch.equal(value, before[n])}
        assert {name for name in same if name.startswith("decoder.17")} == {
            "decoder.17.weight",
            "decoder.17.bias",
        }
        assert "decoder.15.weight" not in same


def first_weights(seed: int) -> dict[str, torch.Tensor]:
    spec = replace(GENERATORS["mobile"], blocks=1, width=4)
    model = CycleGAN(TrainSettings(generator=spec, seed=seed))
    return {
        name: torch.cat([p.detach().flatten() for p in network.parameters()])
        for name, network in model.networks().items()
    }


def test_a_seed_means_the_weights_whatever_the_global_random_state() -> None:
    torch.manual_seed(1)
    one = first_weights(7)
    torch.manual_seed(2)
    torch.rand(5)
    two, other = first_weights(7), first_weights(8)
    for name, weights in one.items():
        assert torch.equal(weights, two[name])
        assert not torch.equal(weights, other[name])
    assert not torch.equal(one["G"], one["F"])
    assert not torch.equal(one["D_X"], one["D_Y"])


@pytest.mark.parametrize(
    "spec",
    [
        *(GENERATORS[name] for name in ("resnet6", "mobile", "brush")),
        GeneratorSpec(name="mine", blocks=0, width=1),
        GeneratorSpec(name="mine", blocks=2, width=5, separable=True),
        GeneratorSpec(name="mine", blocks=1, width=3, upsample="resize", in_channels=1),
    ],
)
def test_a_spec_and_a_state_dict_rebuild_the_generator(spec: GeneratorSpec) -> None:
    network = Generator(spec)
    rebuilt = Generator(GeneratorSpec.from_json(spec.to_json()))
    rebuilt.load_state_dict(network.state_dict())
    assert rebuilt.spec == spec
    x = torch.randn(1, spec.in_channels, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(rebuilt(x), network(x))
