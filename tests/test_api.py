"""The Python API: the kind of picture that goes in comes out, painted as the program paints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import cyclegan_cli
from cyclegan_cli.api import LoadedStyle, load_style, translate
from cyclegan_cli.engine.fast.kernels import library
from cyclegan_cli.engine.networks import Generator
from cyclegan_cli.engine.weights import save_generator
from cyclegan_cli.errors import PictureError, UnknownNameError, UsageError
from cyclegan_cli.painting.effects import paint_picture
from cyclegan_cli.painting.painter import Painter
from cyclegan_cli.settings import GeneratorSpec, TranslateSettings
from cyclegan_cli.styles.store import add_style
from tests.painting.common import painter_of
from tests.program import REPOSITORY

SPEC = GeneratorSpec(name="tiny", blocks=1, width=2, separable=True, upsample="resize")


def network(seed: int = 3) -> Generator:
    """A generator whose pictures depend on its input, and differ by seed."""
    torch.manual_seed(seed)
    made = Generator(SPEC)
    with torch.no_grad():
        for values in made.parameters():
            values.normal_(0, 0.5)
    return made.eval()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("style") / "tiny.safetensors"
    save_generator(path, network(), {"x": "photos", "y": "paintings"})
    return path


@pytest.fixture(scope="module")
def style(weights: Path) -> LoadedStyle:
    return load_style(str(weights), gpu="cpu")


@pytest.fixture(scope="module")
def painter() -> Painter:
    return painter_of(network(), device="cpu")


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (21, 34, 3), dtype=np.uint8)


PAINT = """
import sys
import numpy as np
from PIL import Image
from cyclegan_cli import load_style, translate
style = load_style(sys.argv[1], gpu="cpu")
pixels = np.random.default_rng(0).integers(0, 256, (21, 34, 3), dtype=np.uint8)
painted = style(pixels)
assert np.array_equal(np.asarray(style(Image.fromarray(pixels))), painted)
assert np.array_equal(translate(pixels, sys.argv[1], gpu="cpu"), painted)
assert "torch" not in sys.modules
import torch
tensor = style(torch.from_numpy(pixels).permute(2, 0, 1))
assert np.array_equal(tensor.permute(1, 2, 0).numpy(), painted)
sys.stdout.buffer.write(painted.tobytes())
"""


@pytest.mark.skipif(library() is None, reason="without the kernels PyTorch paints")
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere PyTorch is asked")
def test_arrays_and_images_are_painted_without_pytorch(
    weights: Path, painter: Painter, pixels: np.ndarray
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PAINT, str(weights)], capture_output=True, check=True, cwd=REPOSITORY
    )
    assert done.stdout == paint_picture(painter, pixels, TranslateSettings()).tobytes()


def test_the_package_offers_it_without_importing_torch() -> None:
    assert cyclegan_cli.load_style is load_style
    assert cyclegan_cli.translate is translate
    assert {"load_style", "translate"} <= set(dir(cyclegan_cli))
    with pytest.raises(AttributeError, match="no attribute 'paint'"):
        _ = cyclegan_cli.paint  # type: ignore[attr-defined]
    code = "import sys, cyclegan_cli; print('torch' in sys.modules, 'PIL' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert done.stdout.split() == ["False", "False"]


def test_an_array_is_painted_as_the_program_paints(
    style: LoadedStyle, painter: Painter, pixels: np.ndarray
) -> None:
    expected = paint_picture(painter, pixels, TranslateSettings())
    painted = style(pixels)
    assert painted.dtype == np.uint8
    assert np.array_equal(painted, expected)
    assert not np.array_equal(painted, pixels)


def test_a_pil_image_comes_back_as_one(style: LoadedStyle, pixels: np.ndarray) -> None:
    painted = style(Image.fromarray(pixels))
    assert isinstance(painted, Image.Image)
    assert (painted.mode, painted.size) == ("RGB", (34, 21))
    assert np.array_equal(np.asarray(painted), style(pixels))


def test_alpha_is_carried_untouched(style: LoadedStyle, pixels: np.ndarray) -> None:
    alpha = np.arange(21 * 34).reshape(21, 34).astype(np.uint8)
    rgba = np.dstack([pixels, alpha])
    image = style(Image.fromarray(rgba))
    assert image.mode == "RGBA"
    assert np.array_equal(np.asarray(image), style(rgba))
    assert np.array_equal(style(rgba)[..., 3], alpha)
    assert np.array_equal(style(rgba)[..., :3], style(pixels))
    both = style(rgba, compare=True)
    assert np.array_equal(both[..., 3], np.hstack([alpha, alpha]))
    assert np.array_equal(both[:, :34, :3], pixels)


def test_grey_comes_back_in_colour(style: LoadedStyle, pixels: np.ndarray) -> None:
    grey = pixels[..., 0]
    expected = style(np.dstack([grey, grey, grey]))
    assert np.array_equal(style(grey), expected)
    assert np.array_equal(np.asarray(style(Image.fromarray(grey))), expected)
    assert np.array_equal(style(torch.from_numpy(grey)[None]).permute(1, 2, 0).numpy(), expected)
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    assert np.array_equal(np.asarray(style(deep)), expected)


def test_a_photo_held_sideways_comes_back_upright(style: LoadedStyle, pixels: np.ndarray) -> None:
    image = Image.fromarray(pixels)
    image.getexif()[274] = 6
    painted = style(image)
    assert painted.size == (21, 34)
    assert np.array_equal(np.asarray(painted), style(np.rot90(pixels, -1)))
    assert painted.getexif().get(274, 1) == 1


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_lie_between_0_and_1(
    style: LoadedStyle, pixels: np.ndarray, dtype: type[np.floating]
) -> None:
    painted = style((pixels / 255).astype(dtype))
    assert painted.dtype == dtype
    assert painted.min() >= 0
    assert painted.max() <= 1
    limit = 3 if dtype == np.float16 else 1  # half precision has 11 bits, before and after
    assert np.abs(painted.astype(np.float64) * 255 - style(pixels)).max() <= limit


def test_16_bits_are_not_8(style: LoadedStyle, pixels: np.ndarray) -> None:
    painted = style(pixels.astype(np.uint16) * 257)
    assert painted.dtype == np.uint16
    assert (painted % 257 != 0).any()
    assert np.abs(painted.astype(np.int64) - style(pixels).astype(np.int64) * 257).max() <= 257


def test_tensors_and_batches_of_them(style: LoadedStyle, pixels: np.ndarray) -> None:
    expected = style(pixels)
    one = torch.from_numpy(pixels).permute(2, 0, 1)
    assert np.array_equal(style(one).permute(1, 2, 0).numpy(), expected)
    assert style(one).dtype == torch.uint8
    floats = (one / 255).requires_grad_()
    painted = style(floats)
    assert painted.dtype == torch.float32
    assert not painted.requires_grad
    assert (painted.permute(1, 2, 0) * 255 - torch.from_numpy(expected)).abs().max() <= 1
    other = one.flip(2)
    batch = style(torch.stack([one, other]))
    assert torch.equal(batch[0], style(one))
    assert torch.equal(batch[1], style(other))
    half = style((one / 255).to(torch.bfloat16))
    assert half.dtype == torch.bfloat16


def test_several_pictures_at_once(style: LoadedStyle, pixels: np.ndarray) -> None:
    mirrored = np.ascontiguousarray(pixels[:, ::-1])
    batch = style(np.stack([pixels, mirrored]))
    assert batch.shape == (2, *pixels.shape)
    assert np.array_equal(batch[0], style(pixels))
    assert np.array_equal(batch[1], style(mirrored))
    deep = style(np.stack([pixels, mirrored]).astype(np.uint16) * 257)
    assert deep.dtype == np.uint16
    # In a list each has its own kind and size.
    mixed: Any = [Image.fromarray(pixels), mirrored[:9], torch.from_numpy(pixels).permute(2, 0, 1)]
    image, array, tensor = style(mixed)
    assert np.array_equal(np.asarray(image), style(pixels))
    assert np.array_equal(array, style(mirrored[:9]))
    assert torch.equal(tensor, style(mixed[2]))
    assert style([]) == []


@pytest.mark.bundled
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example session, with the styles that ship."""
    script = REPOSITORY / "docs" / "examples" / "notebook.py"
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__file__": str(script)}
    exec(compile(script.read_text(encoding="utf-8"), str(script), "exec"), names)
    width, height = names["photo"].size
    assert names["painted"].size == (width, height)
    assert names["sheet"].size == (3 * width, height)
    assert names["paintings"].shape == (2, height, width, 3)
    with Image.open("quiet.png") as quiet:
        assert quiet.size == (width, height)
    names["photo"].close()


def test_the_input_is_left_as_it_was(style: LoadedStyle, pixels: np.ndarray) -> None:
    before = pixels.copy()
    floats = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    floats_before = floats.clone()
    for strength in (0.5, 1.0):
        style(pixels, strength=strength, keep_color=True, compare=True)
        style(floats, strength=strength)
    assert np.array_equal(pixels, before)
    assert torch.equal(floats, floats_before)


def test_options_are_those_of_the_program(
    style: LoadedStyle, painter: Painter, pixels: np.ndarray
) -> None:
    chosen = {"resolution": 20, "strength": 0.7, "keep_color": True, "compare": True}
    expected = paint_picture(painter, pixels, TranslateSettings(**chosen))
    assert np.array_equal(style(pixels, **chosen), expected)
    assert np.array_equal(style(pixels, strength=0.0), pixels)
    with pytest.raises(UsageError, match="strength"):
        style(pixels, strength=1.5)
    with pytest.raises(UsageError, match="auto, native"):
        style(pixels, resolution="coarse")


def test_a_style_says_how_large_it_paints_by_itself(
    weights: Path, painter: Painter, pixels: np.ndarray
) -> None:
    add_style(
        "broad", x="x", y="y", origin="trained", weights={"xy": weights}, card={"resolution": 16}
    )
    broad = load_style("broad", gpu="cpu")
    for resolution, chosen in (("auto", 16), ("native", None), (20, 20)):
        expected = paint_picture(painter, pixels, TranslateSettings(resolution=chosen))
        assert np.array_equal(broad(pixels, resolution=resolution), expected)


@given(
    st.integers(1, 30),
    st.integers(1, 30),
    st.sampled_from(["L", "LA", "P", "1", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F"]),
)
@settings(deadline=None, max_examples=25)
def test_any_mode_any_size(style: LoadedStyle, width: int, height: int, mode: str) -> None:
    painted = style(Image.new("RGB", (width, height), (200, 30, 90)).convert("L").convert(mode))
    assert painted.size == (width, height)
    assert painted.mode == ("RGBA" if mode in ("LA", "RGBA") else "RGB")


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.zeros((4, 4, 2), np.uint8), "shape"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (np.zeros((2, 2, 4, 4, 3), np.uint8), "shape"),
        (np.zeros((0, 4, 4, 3), np.uint8), "shape"),
        (np.zeros((2, 3, 4, 5), np.uint8), "N×H×W×C"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 2), np.uint8)], "shape"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
        (np.full((4, 4, 3), 1.5), "1.5"),
        (np.full((4, 4, 3), np.nan), "nan"),
        (torch.zeros(5, 4, 4), "shape"),
        (torch.zeros(4, 4), "shape"),
        (torch.zeros(3, 4, 4, dtype=torch.int32), "int32"),
        (torch.full((3, 4, 4), -1.0), r"\[0, 1\]"),
    ],
)
def test_what_cannot_be_painted_is_named(
    style: LoadedStyle, picture: np.ndarray | torch.Tensor, words: str
) -> None:
    with pytest.raises(PictureError, match=words):
        style(picture)


def test_a_path_is_no_picture(style: LoadedStyle) -> None:
    with pytest.raises(UsageError, match="str is no picture") as caught:
        style("photo.jpg")  # type: ignore[type-var]
    assert "open" in str(caught.value.hint)


def test_the_example_of_the_guide_runs_as_it_stands(
    tmp_path: Path, weights: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = (REPOSITORY / "docs" / "guide.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    add_style(
        "monet", x="photos", y="paintings", origin="trained", weights={"xy": weights}, card={}
    )
    monkeypatch.chdir(tmp_path)
    Image.fromarray(pixels).save("photo.jpg")
    names: dict[str, Any] = {}
    exec(compile(example, "guide.md", "exec"), names)
    names["photo"].close()
    with Image.open("painting.jpg") as painting:
        assert painting.size == names["small"].size == (34, 21)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda a: a.astype(np.int64), "astype"),
        (lambda a: a.astype(np.float32), "/ 255"),
        (lambda a: a / 127.5 - 1, "+ 1) / 2"),
        (lambda a: np.stack([a, a]).transpose(0, 3, 1, 2), "array.transpose(0, 2, 3, 1)"),
        (torch.from_numpy, "permute(2, 0, 1)"),
        (lambda a: torch.from_numpy(a.astype(np.int64)).permute(2, 0, 1), "torch.uint8"),
    ],
)
def test_a_refusal_says_how_it_would_go(
    style: LoadedStyle, pixels: np.ndarray, make: Any, words: str
) -> None:
    with pytest.raises(PictureError) as caught:
        style(make(pixels))
    assert words in str(caught.value.hint)


def test_numbers_of_numpy_and_devices_by_number(
    style: LoadedStyle, weights: Path, pixels: np.ndarray
) -> None:
    found = style(pixels, resolution=np.int64(20), strength=np.float32(0.5))
    assert np.array_equal(found, style(pixels, resolution=20, strength=0.5))
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="no CUDA device 0"):
            load_style(weights, gpu=0)


def test_both_directions_by_name(tmp_path: Path, weights: Path, pixels: np.ndarray) -> None:
    backwards = tmp_path / "back.safetensors"
    save_generator(backwards, network(seed=8))
    files = {"xy": weights, "yx": backwards}
    add_style("mine", x="photos", y="paintings", origin="trained", weights=files, card={})
    forward, back = load_style("mine", gpu="cpu"), load_style("mine", reverse=True, gpu="cpu")
    assert repr(forward) == "<style mine: photos → paintings>"
    assert (back.source, back.target) == ("paintings", "photos")
    assert not np.array_equal(forward(pixels), back(pixels))
    assert np.array_equal(translate(pixels, "mine", gpu="cpu"), forward(pixels))
    assert np.array_equal(translate(pixels, style="mine", reverse=True, gpu="cpu"), back(pixels))
    assert np.array_equal(translate(pixels, forward, strength=0.0), pixels)
    with pytest.raises(UsageError, match="loaded already"):
        translate(pixels, forward, reverse=True)
    with pytest.raises(UnknownNameError, match="Did you mean mine"):
        translate(pixels, "mina")


def test_weights_that_were_replaced_are_read_anew(tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / "w.safetensors"
    save_generator(path, network(seed=1))
    first = translate(pixels, str(path), gpu="cpu")
    save_generator(path, network(seed=2))
    assert not np.array_equal(translate(pixels, str(path), gpu="cpu"), first)


def test_impossible_places_and_precisions(weights: Path) -> None:
    with pytest.raises(UsageError, match="no CUDA device 77"):
        load_style(str(weights), gpu="77")
    with pytest.raises(UsageError, match="precision"):
        load_style(str(weights), gpu="cpu", precision="fp8")  # type: ignore[arg-type]


def test_errors_speak_of_arguments(
    style: LoadedStyle, weights: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of options; also in the hints that say what helps."""
    calls: dict[str, Any] = {
        "strength must be .* not 70. Did you mean 0.7": lambda: style(pixels, strength=70.0),
        "resolution must be at least 16": lambda: style(pixels, resolution=3),
        "keep_color must be true or false": lambda: style(pixels, keep_color=1),  # type: ignore[arg-type]
        "max_memory must be a whole": lambda: load_style(weights, max_memory="4G"),  # type: ignore[arg-type]
        "max_memory must be at least": lambda: translate(pixels, weights, max_memory=1),
        "no CUDA device 77": lambda: translate(pixels, weights, gpu="cuda:77"),
        "no direction": lambda: load_style(weights, reverse=True),
        "precision must be": lambda: load_style(weights, precision="fp8"),  # type: ignore[arg-type]
        'precision="fp16" needs': lambda: load_style(weights, gpu="cpu", precision="fp16"),
        'gpu="cpu,mps"|no device': lambda: load_style(weights, gpu="cpu,mps"),
    }
    for words, call in calls.items():
        with pytest.raises(UsageError, match=words) as caught:
            call()
        assert "--" not in f"{caught.value} {caught.value.hint}"
    assert np.array_equal(load_style(weights, gpu="CPU")(pixels), style(pixels))
    with pytest.raises(UsageError) as found:  # what is typed in a shell stays
        translate(pixels, "cezanne")
    assert found.value.hint == "cyclegan pretrained download cezanne"


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        (lambda pixels, style: style(pixels, strenght=0.5), "strength"),
        (lambda pixels, style: translate(pixels, style, keep_colour=True), "keep_color"),
        (lambda _, __: load_style("monet", max_memry=3), "max_memory"),
    ],
)
def test_an_unknown_argument_gets_a_did_you_mean(
    style: LoadedStyle, pixels: np.ndarray, call: Any, meant: str
) -> None:
    with pytest.raises(TypeError, match=f"unexpected keyword argument .* Did you mean {meant}"):
        call(pixels, style)
