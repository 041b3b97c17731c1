"""translate without PyTorch: when it does, and that nobody can tell."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cyclegan_cli import machine
from cyclegan_cli.cli.app import main
from cyclegan_cli.engine.fast import bf16
from cyclegan_cli.engine.fast.kernels import library
from cyclegan_cli.engine.networks import Generator
from cyclegan_cli.engine.weights import save_generator
from cyclegan_cli.errors import counted
from cyclegan_cli.machine import may_have_accelerator, thread_count
from cyclegan_cli.media.deep import png_of
from cyclegan_cli.painting import painter as module
from cyclegan_cli.settings import GENERATORS
from cyclegan_cli.styles.store import find_style, weights_file
from tests.painting.common import random_pixels
from tests.program import environment

pytestmark = [
    pytest.mark.skipif(library() is None, reason="the kernels are not here"),
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere PyTorch is asked"),
]
BRUSH = replace(GENERATORS["brush"], width=4, blocks=1)


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``main`` takes SIGINT and SIGTERM, and says how many threads NumPy's BLAS shall have."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures of many kinds: small, odd, deep, grey, with alpha, moving, and one that is none."""
    x, y = np.meshgrid(np.linspace(0, 1, 150), np.linspace(0, 1, 101))
    colours = np.stack([x, y, 0.5 + 0.5 * np.sin(9 * x * y)], 2)
    noise = np.random.default_rng(0).normal(0, 0.02, colours.shape)
    image = Image.fromarray(np.rint((colours + noise).clip(0, 1) * 255).astype(np.uint8))
    image.save(tmp_path / "a.jpg")
    image.convert("L").save(tmp_path / "grey.png")
    image.convert("RGBA").rotate(20).save(tmp_path / "alpha.webp", lossless=True)
    image.crop((0, 0, 1, 1)).save(tmp_path / "one.png")
    image.crop((0, 0, 3, 2)).save(tmp_path / "few.tif")
    first = image.resize((40, 30))
    first.save(tmp_path / "moving.gif", save_all=True, append_images=[first.rotate(90)])
    with (tmp_path / "deep.png").open("wb") as file:
        png_of(np.rint(colours * 65535).astype(np.uint16), {}, file)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "list.txt").write_text("a.jpg\nfew.tif\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


EVERYTHING = ["a.jpg", "grey.png", "alpha.webp", "one.png", "few.tif", "moving.gif", "deep.png"]
COMMANDS = {
    "all kinds": [*EVERYTHING, "broken.jpg", "-v"],
    "native": ["a.jpg", "--resolution", "native", "--format", "png", "--json"],
    "coarser": ["a.jpg", "deep.png", "--resolution", "64", "--keep-color", "--compare", "-v"],
    "finer": ["@list.txt", "--resolution", "200", "--strength", "0.3", "--json", "-v"],
    "reverse": ["deep.png", "--reverse", "--precision", "fp32", "--max-memory", "2G"],
}


def without_seconds(text: str) -> str:
    return re.sub(r"\d+\.\d+ s|\"seconds\": [\d.]+", "…", text)


@pytest.mark.bundled
def test_nobody_can_tell(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The files, what is said and the exit codes are those of the way through PyTorch."""
    commands = [
        ["translate", *given, "--style", "monet", "--gpu", "cpu", "-o", f"OUT/{number}/"]
        for number, given in enumerate(COMMANDS.values())
    ]
    code = (
        "import json, sys\n"
        "from cyclegan_cli.cli.app import main\n"
        "codes = [main(command) for command in json.loads(sys.argv[1])]\n"
        "heavy = [m for m in ('torch', 'imageio', 'http.client') if m in sys.modules]\n"
        "print(json.dumps([codes, heavy]))\n"
    )
    text = json.dumps(commands)
    done = subprocess.run(
        [sys.executable, "-c", code, text.replace("OUT", "light")],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    *out, last = done.stdout.splitlines()
    codes, heavy = json.loads(last)
    assert heavy == []
    assert codes == [1, 0, 0, 0, 0]

    assert "torch" in sys.modules  # with its threads, and asked for the devices
    assert [main(command) for command in json.loads(text.replace("OUT", "heavy"))] == codes
    said = capsys.readouterr()
    assert f"Painting on CPU, {counted(torch.get_num_threads(), 'thread')}." in said.err
    assert without_seconds(said.err).replace("heavy/", "light/") == without_seconds(done.stderr)
    expected = [without_seconds(line).replace("heavy/", "light/") for line in said.out.splitlines()]
    assert expected == [without_seconds(line) for line in out]

    light = {path.relative_to("light"): path for path in Path("light").rglob("*.*")}
    assert len(light) == len(EVERYTHING) + 1 + 2 + 2 + 1
    for name, path in light.items():
        assert path.read_bytes() == (Path("heavy") / name).read_bytes(), name


@pytest.mark.bundled
def test_from_stdin_to_stdout(folder: Path) -> None:
    code = (
        "import sys; from cyclegan_cli.cli.app import main\n"
        "sys.exit(main(sys.argv[1:]) or 'torch' in sys.modules)"
    )
    command = ["translate", "-", "--style", "monet", "--gpu", "cpu", "--format", "png", "-q"]
    piped = subprocess.run(
        [sys.executable, "-c", code, *command],
        env=environment(),
        input=Path("a.jpg").read_bytes(),
        capture_output=True,
        check=True,
        timeout=120,
    )
    assert main(["translate", "a.jpg", "-s", "monet", "--gpu", "cpu", "-o", "b.png"]) == 0
    assert piped.stdout == Path("b.png").read_bytes()


# -- when PyTorch is asked -------------------------------------------------------------------------

OPEN = """
import sys
from pathlib import Path
from cyclegan_cli.painting.painter import open_painter
import cyclegan_cli.painting.painter as module
module.may_have_accelerator = lambda: {drivers}
try:
    open_painter(Path(sys.argv[1]), {gpu!r}, {precision!r}, exact_reference={exact})
except Exception as error:
    print(type(error).__name__)
print("torch" in sys.modules)
"""


def opened(weights: Path, gpu: str = "cpu", precision: str = "auto", **how: Any) -> list[str]:
    """What opening a painter in a new process says, and whether it imported torch."""
    chosen = {"drivers": False, "exact": False} | how
    done = subprocess.run(
        [sys.executable, "-c", OPEN.format(gpu=gpu, precision=precision, **chosen), str(weights)],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.split()


@pytest.fixture
def brush(tmp_path: Path) -> Path:
    save_generator(tmp_path / "brush.safetensors", Generator(BRUSH))
    return tmp_path / "brush.safetensors"


@pytest.mark.bundled
def test_the_styles_that_ship_do_without() -> None:
    for name in ("monet", "vangogh"):
        for reverse in (False, True):
            assert opened(weights_file(find_style(name), reverse)) == ["False"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", GENERATORS)
def test_every_generator_does_without(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    path = tmp_path / f"{name}.safetensors"
    save_generator(path, Generator(replace(GENERATORS[name], width=4, blocks=1)), dtype=dtype)
    assert opened(path) == ["False"]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"exact": True}, ["True"]),
        ({"precision": "bf16"}, ["False" if bf16.has_unit() else "True"]),
        ({"precision": "fp16"}, ["DeviceError", "True"]),
        ({"precision": "fp32"}, ["False"]),
        ({"gpu": "auto"}, ["False"]),
        ({"gpu": "auto", "drivers": True}, ["True"]),
        ({"gpu": "cpu", "drivers": True}, ["False"]),
        ({"gpu": "nonsense"}, ["DeviceError", "True"]),
    ],
)
def test_options_that_want_pytorch(
    brush: Path, chosen: dict[str, Any], expected: list[str]
) -> None:
    assert opened(brush, **chosen) == expected


def test_without_the_kernels(brush: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain layers then, as with --exact-reference."""
    pixels = random_pixels(20, 30)
    expected = module.open_painter(brush, "cpu", exact_reference=True).paint(pixels)
    monkeypatch.setattr(module, "library", lambda: None)
    assert np.array_equal(module.open_painter(brush, "cpu").paint(pixels), expected)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    assert opened(tmp_path / "broken.safetensors") == ["WeightsError", "False"]


def test_drivers_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(name: str) -> None:
        assert name == "libcuda.so.1"
        raise OSError

    monkeypatch.setattr(machine, "_DRIVERS", (str(tmp_path / "nvidiactl"),))
    monkeypatch.setattr("ctypes.CDLL", refused)
    assert not may_have_accelerator()
    monkeypatch.setattr("ctypes.CDLL", lambda _name: None)
    assert may_have_accelerator()
    monkeypatch.setattr("ctypes.CDLL", refused)
    (tmp_path / "nvidiactl").touch()
    assert may_have_accelerator()
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda _name: None)
    assert not may_have_accelerator(), "without PyTorch no card can be used"


@pytest.mark.skipif(torch.cuda.device_count() == 0, reason="no GPU is here")
def test_a_gpu_is_noticed() -> None:
    assert may_have_accelerator()


@pytest.mark.parametrize(
    "variables", [{}, {"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "64,2", "MKL_NUM_THREADS": ""}]
)
def test_as_many_threads_as_pytorch_takes(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.get_num_threads())"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert thread_count() == int(done.stdout)
