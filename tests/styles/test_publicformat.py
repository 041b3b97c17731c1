"""Weights of the public PyTorch CycleGAN, in and out, against an independent implementation."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from cyclegan_cli.errors import UsageError, WeightsError
from cyclegan_cli.settings import GENERATORS, GeneratorSpec
from cyclegan_cli.styles.convert import export_public, read_generator, to_public
from tests.styles.make import TINY_MOBILE, tiny_generator, weights
from tests.styles.public_model import PublicResnet, as_the_method_means, public_generator


def picture(channels: int = 3) -> Tensor:
    torch.manual_seed(5)
    return torch.rand(2, channels, 40, 48) * 2 - 1


def saved(state: object, folder: Path, *, zipped: bool = True) -> Path:
    path = folder / "latest_net_G_A.pth"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    return path


@torch.no_grad()
def assert_same(network: nn.Module, path: Path, channels: int = 3) -> None:
    read = read_generator(path)
    assert not read.training
    x = picture(channels)
    assert torch.equal(read(x), network(x))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before-1.6"])
@pytest.mark.parametrize(
    "options",
    [
        {"blocks": 9, "ngf": 8},
        {"blocks": 6, "ngf": 8},
        {"blocks": 9, "ngf": 4, "dropout": True},
        {"blocks": 1, "ngf": 5},
        {"blocks": 6, "ngf": 8, "inputs": 1, "outputs": 3},
        {"blocks": 6, "ngf": 8, "inputs": 3, "outputs": 1},
    ],
    ids=str,
)
def test_every_variant_is_read_from_its_tensors(
    options: dict[str, object], zipped: bool, tmp_path: Path
) -> None:
    network = public_generator(**options)
    path = saved(network.state_dict(), tmp_path, zipped=zipped)
    spec = read_generator(path).spec
    assert (spec.blocks, spec.width) == (options["blocks"], options["ngf"])
    assert_same(network, path, spec.in_channels)


def test_the_full_size_generator_has_the_papers_parameters(tmp_path: Path) -> None:
    network = public_generator()
    path = saved(network.state_dict(), tmp_path)
    read = read_generator(path)
    assert read.spec == GENERATORS["resnet9"]
    assert sum(p.numel() for p in read.parameters()) == 11_378_179
    assert_same(network, path)


@pytest.mark.parametrize("zipped", [True, False])
def test_running_statistics_are_dropped(zipped: bool, tmp_path: Path) -> None:
    network = public_generator(blocks=2, ngf=4, track=True)
    network.train()
    network(picture())  # fills the statistics with something that changes the output
    network.eval()
    state = network.state_dict()
    assert any(key.endswith("running_mean") for key in state)
    assert any(key.endswith("num_batches_tracked") for key in state)
    path = saved(state, tmp_path, zipped=zipped)
    with torch.no_grad():
        with_statistics = network(picture())
        as_trained = as_the_method_means(network)(picture())
        assert not torch.allclose(with_statistics, as_trained, atol=1e-3)
        assert torch.equal(read_generator(path)(picture()), as_trained)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
def test_prefixes_of_wrappers_are_dropped(prefix: str, tmp_path: Path) -> None:
    network = public_generator(blocks=2, ngf=4)
    state = OrderedDict((prefix + key, value) for key, value in network.state_dict().items())
    assert_same(network, saved(state, tmp_path))


def discriminators(prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in discriminator().items()}


def prefixed(network: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in network.state_dict().items()}


WRAPPED = {
    "a state_dict": lambda g: {"state_dict": g.state_dict(), "epoch": 3},
    "of a module": lambda g: {"model": prefixed(g, "module.")},
    "Lightning": lambda g: {
        "pytorch-lightning_version": "2.5.0",
        "state_dict": prefixed(g, "netG_A.") | discriminators("netD_A."),
    },
    "a field named model": lambda g: prefixed(g, "model."),
    "networks side by side": lambda g: {"netG": g.state_dict(), "netD": discriminator()},
    "deep": lambda g: {"checkpoint": {"weights": {"generator": prefixed(g, "module.")}}},
    "compiled": lambda g: {"G": prefixed(g, "_orig_mod.model.")},
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", WRAPPED)
def test_a_generator_is_found_in_what_it_was_saved_with(
    wrap: str, zipped: bool, tmp_path: Path
) -> None:
    network = public_generator(blocks=2, ngf=4)
    assert_same(network, saved(WRAPPED[wrap](network), tmp_path, zipped=zipped))


def test_several_generators_are_not_chosen_from(tmp_path: Path) -> None:
    both = {f"netG_{way}": public_generator(k, blocks=2, ngf=4) for k, way in enumerate("AB")}
    flat = {
        k: v for name, network in both.items() for k, v in prefixed(network, f"{name}.").items()
    }
    for state in ({name: network.state_dict() for name, network in both.items()}, flat):
        with pytest.raises(WeightsError, match="holds several generators: netG_A, netG_B"):
            read_generator(saved(state, tmp_path))


@pytest.mark.parametrize("options", [{"inputs": 2}, {"inputs": 4, "outputs": 4}, {"outputs": 2}])
def test_channels_that_no_picture_has_are_refused(
    options: dict[str, object], tmp_path: Path
) -> None:
    network = public_generator(blocks=2, ngf=4, **options)
    counts = f"from {options.get('inputs', 3)} to {options.get('outputs', 3)} channels"
    with pytest.raises(WeightsError, match=counts):
        read_generator(saved(network.state_dict(), tmp_path))
    safetensors.torch.save_file(network.state_dict(), tmp_path / "G.safetensors")
    with pytest.raises(WeightsError, match=counts):
        read_generator(tmp_path / "G.safetensors")
    spec = GeneratorSpec(
        name="resnet2",
        blocks=2,
        width=4,
        in_channels=int(str(options.get("inputs", 3))),
        out_channels=int(str(options.get("outputs", 3))),
    )
    own = weights(tmp_path, 0, spec)
    with pytest.raises(WeightsError, match=counts):
        read_generator(own)


def test_a_checkpoint_of_a_training_is_named(tmp_path: Path) -> None:
    path = tmp_path / "step-000000004.safetensors"
    tensors = {"G.encoder.1.weight": torch.zeros(1)}
    safetensors.torch.save_file(tensors, path, {"format": "cyclegan-checkpoint-1"})
    with pytest.raises(WeightsError, match="is a checkpoint of a training") as caught:
        read_generator(path)
    assert "--run RUN" in str(caught.value.hint)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    network = public_generator(blocks=2, ngf=4).to(dtype)
    path = saved(network.state_dict(), tmp_path)
    assert_same(network.float(), path)
    assert {p.dtype for p in read_generator(path).parameters()} == {torch.float32}


def test_parameters_and_plain_dictionaries_are_read(tmp_path: Path) -> None:
    network = public_generator(blocks=2, ngf=4)
    assert_same(network, saved(dict(network.named_parameters()), tmp_path))


def test_a_file_saved_by_python_2_is_read(tmp_path: Path) -> None:
    # Python 2 pickled names as bytes (SHORT_BINSTRING), where Python 3 writes BINUNICODE.
    network = public_generator(blocks=2, ngf=4)
    path = saved(network.state_dict(), tmp_path, zipped=False)
    data, start = path.read_bytes(), 0
    while (start := data.find(b"X", start)) >= 0:
        length = int.from_bytes(data[start + 1 : start + 5], "little")
        text = data[start + 5 : start + 5 + length]
        if 0 < length < 60 and text.isascii() and text.decode().isprintable():
            data = data[:start] + b"U" + bytes([length]) + data[start + 5 :]
        start += 1
    assert data.count(b"U\x0emodel.1.weight") == 1
    path.write_bytes(data)
    assert_same(network, path)


class Python2Dict:
    """Pickles as Python 2 pickled an OrderedDict: called with a list of its items as lists."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.items = [[name, value] for name, value in state.items()]

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return OrderedDict, (self.items,)


@pytest.mark.parametrize("zipped", [True, False])
def test_an_ordered_dict_of_python_2_is_read(zipped: bool, tmp_path: Path) -> None:
    network = public_generator(blocks=2, ngf=4)
    assert_same(network, saved(Python2Dict(network.state_dict()), tmp_path, zipped=zipped))


@pytest.mark.parametrize("items", [[["w"]], [["w", 1, 2]], [("w", 1)], [[(), 1]], "ab", [3]])
def test_an_ordered_dict_of_other_things_is_refused(items: object, tmp_path: Path) -> None:
    made = Python2Dict({})
    made.items = items  # type: ignore[assignment]
    with pytest.raises(WeightsError):
        read_generator(saved(made, tmp_path))


def test_public_tensors_as_safetensors_are_read(tmp_path: Path) -> None:
    network = public_generator(blocks=2, ngf=4)
    path = tmp_path / "G.safetensors"
    safetensors.torch.save_file(network.state_dict(), path)
    assert_same(network, path)


def test_this_programs_own_files_are_read(tmp_path: Path) -> None:
    path = weights(tmp_path, 3, TINY_MOBILE)
    with torch.no_grad():
        assert torch.equal(
            read_generator(path)(picture()), tiny_generator(3, TINY_MOBILE)(picture())
        )


# -- out -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet9", "resnet6"])
def test_an_export_loads_in_the_public_code_unchanged(name: str, tmp_path: Path) -> None:
    spec = GENERATORS[name]
    ours = tiny_generator(4, spec)
    export_public(ours, tmp_path / "latest_net_G.pth")
    state = torch.load(tmp_path / "latest_net_G.pth", weights_only=True)
    theirs = PublicResnet(blocks=spec.blocks)
    expected = theirs.state_dict()
    assert list(state) == list(expected)  # key for key, in order
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in expected.items()}
    theirs.load_state_dict(state, strict=True)
    with torch.no_grad():
        assert torch.equal(theirs.eval()(picture()), ours(picture()))


def test_named_keys_of_the_layout(tmp_path: Path) -> None:
    keys = list(to_public(tiny_generator(0, GENERATORS["resnet9"])))
    assert keys[0] == "model.1.weight"
    assert keys[-1] == "model.26.bias"
    assert {"model.10.conv_block.1.weight", "model.18.conv_block.5.bias", "model.19.weight"} <= set(
        keys
    )
    assert len(keys) == 2 * 24


def test_what_was_imported_is_exported_as_it_was(tmp_path: Path) -> None:
    network = public_generator(blocks=6, ngf=4)
    path = saved(network.state_dict(), tmp_path)
    export_public(read_generator(path), tmp_path / "out.pth")
    out = torch.load(tmp_path / "out.pth", weights_only=True)
    assert list(out) == list(network.state_dict())
    assert all(torch.equal(out[key], value) for key, value in network.state_dict().items())


def test_a_mobile_generator_has_no_public_layout(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="mobile generator has no place"):
        export_public(tiny_generator(0, TINY_MOBILE), tmp_path / "m.pth")
    assert list(tmp_path.iterdir()) == []


# -- what is not a generator of the method ---------------------------------------------------


def unet() -> dict[str, Tensor]:
    keys = ("model.model.0.weight", "model.model.1.model.1.weight", "model.model.3.bias")
    return {key: torch.zeros(4, 3, 4, 4) for key in keys}


def batchnorm() -> dict[str, Tensor]:
    state = public_generator(blocks=2, ngf=4).state_dict()
    state = OrderedDict((k, v) for k, v in state.items() if k == "model.17.bias" or "bias" not in k)
    for key in ("weight", "bias", "running_mean", "running_var"):
        state[f"model.2.{key}"] = torch.ones(4)
    return state


def discriminator() -> dict[str, Tensor]:
    return {"model.0.weight": torch.zeros(64, 3, 4, 4), "model.0.bias": torch.zeros(64)}


def without_biases() -> dict[str, Tensor]:
    return {
        k: v for k, v in public_generator(blocks=2, ngf=4).state_dict().items() if "bias" not in k
    }


def changed(key: str, value: Tensor | None) -> dict[str, Tensor]:
    state = public_generator(blocks=2, ngf=4).state_dict()
    if value is None:
        del state[key]
    else:
        state[key] = value
    return state


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (unet(), "it is a U-Net"),
        ({"state_dict": unet()}, "it is a U-Net"),
        ({"state_dict": discriminator(), "epoch": 1}, "is a discriminator, not a generator"),
        ({3: torch.zeros(2, 2)}, "no residual blocks"),
        (batchnorm(), "it normalises with BatchNorm"),
        (discriminator(), "is a discriminator, not a generator"),
        (without_biases(), "no biases"),
        (public_generator(blocks=2, ngf=4, padding="zero").state_dict(), "pad with zeros"),
        (changed("model.2.weight", torch.ones(4)), "a learned norm"),
        (changed("model.4.bias", None), "model.4.bias is missing"),
        (changed("model.4.weight", torch.zeros(8, 4, 5, 5)), r"\[8, 4, 5, 5\], not \[8, 4, 3, 3\]"),
        (changed("model.4.weight", torch.full((8, 4, 3, 3), float("nan"))), "not finite"),
        (changed("model.4.weight", torch.zeros(8, 4, 3, 3, dtype=torch.long)), "not finite"),
        (changed("model.99.weight", torch.zeros(8, 4, 3, 3)), "model.99.weight has no place"),
        (changed("module.model.4.bias", torch.zeros(8)), "there twice"),
        (changed("model.1.weight", torch.zeros(4)), "a learned norm"),
        (changed("model.4.filt", torch.zeros(1, 1, 3, 3)), "CUT"),
        ({"fc.weight": torch.zeros(2, 2)}, "no residual blocks"),
    ],
)
def test_other_networks_are_refused_by_name(
    state: dict[str, Tensor], sentence: str, tmp_path: Path
) -> None:
    path = saved(state, tmp_path)
    with pytest.raises(WeightsError, match=sentence) as caught:
        read_generator(path)
    assert str(path) in str(caught.value)
