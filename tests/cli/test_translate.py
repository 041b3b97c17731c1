"""cyclegan translate, as a user types it: what is written, said and returned."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cyclegan_cli.cli.app import main
from cyclegan_cli.engine.networks import Generator
from cyclegan_cli.engine.weights import load_generator, save_generator
from cyclegan_cli.painting import effects
from cyclegan_cli.painting.effects import paint_picture
from cyclegan_cli.settings import GeneratorSpec, TranslateSettings
from cyclegan_cli.styles.store import add_style
from tests.painting.common import painter_of
from tests.program import REPOSITORY, environment

SPEC = GeneratorSpec(name="tiny", blocks=1, width=2, separable=True, upsample="resize")


def save_network(path: Path, seed: int) -> Path:
    """A generator that changes every picture, and another one for each seed."""
    torch.manual_seed(seed)
    network = Generator(SPEC)
    with torch.no_grad():
        for values in network.parameters():
            values.normal_(0, 0.5)
    save_generator(path, network)
    return path


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """``main`` takes SIGINT and SIGTERM; pytest gets them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    return {way: save_network(folder / f"{way}.safetensors", k) for k, way in enumerate("ab")}


class User:
    """Types commands in a folder of their own."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capture = capture
        self.out = ""
        self.err = ""

    def types(self, *arguments: str) -> int:
        code = main(["translate", "--gpu", "cpu", *arguments])
        self.out, self.err = self._capture.readouterr()
        return code

    def pixels(self, name: str) -> Any:
        with Image.open(self.folder / name) as image:
            return np.asarray(image.convert("RGB"))

    def files(self) -> set[str]:
        return {str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file()}


@pytest.fixture
def user(
    tmp_path: Path,
    weights: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> User:
    files = {"xy": weights["a"], "yx": weights["b"]}
    add_style("monet", x="photo", y="painting", origin="trained", weights=files, card={})
    folder = tmp_path / "user"
    random = np.random.default_rng(5)
    for name in ("a.png", "photos/b.png", "photos/deep/c.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (18, 25, 3), dtype=np.uint8)).save(folder / name)
    monkeypatch.chdir(folder)
    return User(folder, capsys)


def painted(pixels: Any, weights: Path, **chosen: Any) -> Any:
    """What the engine makes of ``pixels``, without the command line."""
    return paint_picture(painter_of(load_generator(weights)), pixels, TranslateSettings(**chosen))


# -- what is written -------------------------------------------------------------------------


def test_the_result_is_what_the_engine_paints(user: User, weights: dict[str, Path]) -> None:
    before = user.files()
    assert user.types("a.png", "--style", "monet") == 0
    assert user.out == "a_monet.png\n"
    assert user.files() - before == {"a_monet.png"}
    result = user.pixels("a_monet.png")
    assert np.array_equal(result, painted(user.pixels("a.png"), weights["a"]))
    assert not np.array_equal(result, user.pixels("a.png"))
    assert "CPU" in user.err


def test_reverse_is_the_other_direction(user: User, weights: dict[str, Path]) -> None:
    assert user.types("a.png", "-s", "monet", "--reverse", "-o", "back.png") == 0
    assert np.array_equal(user.pixels("back.png"), painted(user.pixels("a.png"), weights["b"]))


def test_a_style_can_be_a_file(user: User, weights: dict[str, Path]) -> None:
    assert user.types("a.png", "-s", str(weights["b"])) == 0
    assert user.out == "a_b.png\n"
    assert np.array_equal(user.pixels("a_b.png"), painted(user.pixels("a.png"), weights["b"]))


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        (("--resolution", "16"), {"resolution": 16}),
        (("--resolution", "native"), {}),
        (("--strength", "0.4"), {"strength": 0.4}),
        (("--keep-color",), {"keep_color": True}),
        (("--compare",), {"compare": True}),
        (("--max-memory", "8G", "--precision", "fp32"), {}),
    ],
)
def test_options_reach_the_painting(
    user: User, weights: dict[str, Path], options: tuple[str, ...], chosen: dict[str, Any]
) -> None:
    assert user.types("a.png", "-s", "monet", *options) == 0
    expected = painted(user.pixels("a.png"), weights["a"], **chosen)
    assert np.array_equal(user.pixels("a_monet.png"), expected)


def test_a_style_says_how_large_it_paints_by_itself(user: User, weights: dict[str, Path]) -> None:
    files = {"xy": weights["a"]}
    add_style("broad", x="x", y="y", origin="trained", weights=files, card={"resolution": 16})
    for options, chosen in (
        ((), {"resolution": 16}),
        (("--resolution", "auto"), {"resolution": 16}),
        (("--resolution", "native"), {}),
        (("--resolution", "20"), {"resolution": 20}),
    ):
        assert user.types("a.png", "-s", "broad", "--overwrite", *options) == 0
        expected = painted(user.pixels("a.png"), weights["a"], **chosen)
        assert np.array_equal(user.pixels("a_broad.png"), expected)
    assert user.types("a.png", "-s", "broad", "--resolution", "small") == 2
    assert "auto, native" in user.err


def test_strength_0_gives_the_original_back(user: User) -> None:
    assert user.types("a.png", "-s", "monet", "--strength", "0") == 0
    assert np.array_equal(user.pixels("a_monet.png"), user.pixels("a.png"))


def test_format_and_quality(user: User) -> None:
    sizes = []
    for quality in ("30", "99"):
        output = f"q{quality}"
        assert (
            user.types(
                "photos", "-s", "monet", "-o", output, "--format", "jpg", "--quality", quality
            )
            == 0
        )
        assert user.out.splitlines() == [f"{output}/b.jpg", f"{output}/deep/c.jpg"]
        with Image.open(f"{output}/b.jpg") as image:
            assert image.format == "JPEG"
        sizes.append(Path(output, "b.jpg").stat().st_size)
    assert sizes[0] < sizes[1] / 2


def test_existing_outputs(user: User) -> None:
    Path("a_monet.png").write_bytes(b"mine")
    assert user.types("a.png", "-s", "monet") == 2
    assert "a_monet.png" in user.err
    assert "--overwrite" in user.err
    assert user.types("a.png", "-s", "monet", "--skip-existing") == 0
    assert Path("a_monet.png").read_bytes() == b"mine"
    assert user.out == ""
    assert user.types("a.png", "-s", "monet", "--overwrite") == 0
    assert user.pixels("a_monet.png").shape == (18, 25, 3)


def test_a_dry_run_prints_the_plan_and_writes_nothing(user: User) -> None:
    before = user.files()
    assert user.types("photos", "a.png", "-s", "monet", "-o", "out", "--dry-run") == 0
    assert user.files() == before
    assert len(user.out.splitlines()) == 3
    assert user.types("photos", "-s", "monet", "--dry-run", "--json") == 0
    records = [json.loads(line) for line in user.out.splitlines()]
    assert [record["output"] for record in records] == [
        "photos/b_monet.png",
        "photos/deep/c_monet.png",
    ]


def test_a_folder_is_painted_in_two_styles_one_after_the_other(
    user: User, weights: dict[str, Path]
) -> None:
    add_style("other", x="x", y="y", origin="trained", weights={"xy": weights["b"]}, card={})
    assert user.types("photos", "-s", "monet", "-q") == 0
    assert user.types("photos", "-s", "monet", "--reverse", "-q") == 0
    assert user.types("photos", "-s", "other") == 0
    assert user.out.splitlines() == ["photos/b_other.png", "photos/deep/c_other.png"]
    assert "4 earlier outputs are left out; --include-paintings" in user.err
    # Away from their originals, and under names of their own, by their metadata.
    Path("mixed").mkdir()
    Path("photos/b_monet.png").rename("mixed/holiday.png")
    Path("photos/b.png").rename("mixed/z.png")
    assert user.types("mixed", "-s", "other", "-o", "out") == 0
    assert user.out == "out/z.png\n"
    assert "1 earlier output is left out" in user.err
    assert user.types("mixed", "-s", "other", "-o", "all", "--include-paintings", "-q") == 0
    assert user.out.splitlines() == ["all/holiday.png", "all/z.png"]
    assert user.types("mixed/holiday.png", "-s", "other", "-q") == 0  # named, so painted


def test_several_styles_are_all_painted(user: User, weights: dict[str, Path]) -> None:
    add_style("other", x="x", y="y", origin="trained", weights={"xy": weights["b"]}, card={})
    assert user.types("a.png", "-s", "monet, other,monet") == 0
    assert user.out.splitlines() == ["a_monet.png", "a_other.png"]
    for name, way in (("a_monet.png", "a"), ("a_other.png", "b")):
        assert np.array_equal(user.pixels(name), painted(user.pixels("a.png"), weights[way]))
    # Below a folder, too, the names tell which is which; earlier outputs of either are no inputs.
    assert user.types(".", "-s", "monet", "-s", "other", "-o", "out", "--json") == 0
    records = [json.loads(line) for line in user.out.splitlines()]
    names = ("a", "photos/b", "photos/deep/c")
    assert [r["output"] for r in records] == [
        f"out/{name}_{style}.png" for style in ("monet", "other") for name in names
    ]
    assert {r["status"] for r in records} == {"done"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.png", "-s", "monet,other", "-o", "b.png"], "-o b.png is a file: several styles need"),
        (["a.png", "-s", "monet,other", "-o", "-"], "stdout takes one picture"),
        (["-", "-s", "monet,other", "-o", "out"], "stdin has no name"),
        (["a.png", "-s", "monet,othr"], "othr"),
        (["a.png", "-s", ","], "Missing option --style"),
        (["a.png", "-s", "monet,other", "--reverse"], "other"),
        (["a.png", "-s", "monet,x/monet.safetensors"], "two styles are named monet"),
    ],
)
def test_several_styles_are_refused_before_any_work(
    user: User, weights: dict[str, Path], arguments: list[str], said: str
) -> None:
    add_style("other", x="x", y="y", origin="trained", weights={"xy": weights["b"]}, card={})
    Path("x").mkdir()
    Path("x/monet.safetensors").write_bytes(weights["a"].read_bytes())
    before = user.files()
    assert user.types(*arguments) == 2
    assert said in user.err
    assert user.files() == before


def test_photographs_of_a_phone(user: User) -> None:
    """One moment as HEIC and as JPEG, and a file that is neither."""
    with Image.open("a.png") as image:
        image.save("photos/IMG_1.jpg")
        image.save("photos/IMG_1.webp")
    Path("photos/IMG_1.png").write_bytes(b"cut off")
    assert user.types("photos", "-s", "monet", "--format", "jpg", "-o", "out") == 1
    written = {"out/IMG_1.jpg", "out/IMG_1.webp.jpg", "out/b.jpg", "out/deep/c.jpg"}
    assert set(user.out.splitlines()) == written
    assert {name for name in user.files() if name.startswith("out")} == written
    assert "1 of 5 failed" in user.err


def test_reverse_and_forward_lie_side_by_side(user: User, weights: dict[str, Path]) -> None:
    assert user.types("a.png", "-s", "monet", "-q") == 0
    assert user.types("a.png", "-s", "monet", "--reverse") == 0
    assert user.out == "a_monet-reverse.png\n"
    expected = painted(user.pixels("a.png"), weights["b"])
    assert np.array_equal(user.pixels("a_monet-reverse.png"), expected)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_names_that_would_steer_a_terminal(user: User) -> None:
    name = "odd\x1b[31m\a\n\u202egpj.png"
    Path("photos/b.png").rename(f"photos/{name}")
    Path("photos/bad\n\x9b.png").write_bytes(b"")
    assert user.types("photos", "-s", "monet", "-o", "out", "-v") == 1
    assert f"out/{name}\n" in user.out, "exact, on a pipe"
    assert "bad\\n\\x9b.png is empty" in user.err
    assert "odd\\x1b[31m\\x07\\n\\u202egpj.png: 25×18" in user.err
    assert not set(user.err) & {"\x1b", "\a", "\u202e", "\x9b"}
    assert user.types("photos", "-s", "monet", "-o", "out", "--overwrite", "--json") == 1
    assert f"out/{name}" in [json.loads(line)["output"] for line in user.out.splitlines()]
    assert user.types("photos", "-s", "monet", "-o", "out", "--overwrite", "--print0") == 1
    assert sorted(user.out.split("\0")) == ["", "out/deep/c.png", f"out/{name}"]
    assert user.types("a.png", "-s", "monet", "-0") == 0
    assert user.out == "a_monet.png\0"
    assert user.types("no\x1bsuch.png", "-s", "monet") == 2
    assert "no\\x1bsuch.png" in user.err
    assert user.types("a.png", "-s", "no\x1b]0;style\a") == 2
    assert "\x1b" not in user.err


# -- when something is wrong -----------------------------------------------------------------


def test_one_bad_file_never_stops_the_others(user: User) -> None:
    Path("photos/bad.png").write_bytes(Path("a.png").read_bytes()[:60])
    Path("photos/aaa.jpg").write_bytes(b"")
    assert user.types("photos", "-s", "monet", "-o", "out") == 1
    assert user.out.splitlines() == ["out/b.png", "out/deep/c.png"]
    assert {name for name in user.files() if name.startswith("out")} == {
        "out/b.png",
        "out/deep/c.png",
    }
    last = user.err.splitlines()[-3:]
    assert "2 of 4" in last[0]
    assert "photos/aaa.jpg" in last[1]
    assert "photos/bad.png" in last[2]


def test_a_folder_that_cannot_be_read_never_stops_the_others(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = os.scandir

    def locked(folder: Any) -> Any:
        if Path(folder).name == "deep":
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", locked)
    assert user.types("photos", "-s", "monet", "-o", "out") == 1
    assert user.out == "out/b.png\n"
    assert "error: photos/deep cannot be read: Permission denied." in user.err
    assert user.types("photos", "-s", "monet", "-o", "new", "--dry-run") == 0
    assert "warning: photos/deep cannot be read" in user.err


def test_json_tells_of_failures_too(user: User) -> None:
    Path("photos/bad.png").write_bytes(b"no picture at all")
    assert user.types("photos", "-s", "monet", "-o", "out", "--json") == 1
    records = {record["input"]: record for record in map(json.loads, user.out.splitlines())}
    assert records["photos/bad.png"]["status"] == "failed"
    assert "bad.png" in records["photos/bad.png"]["error"]
    good = records["photos/b.png"]
    assert (good["status"], good["output"]) == ("done", "out/b.png")
    assert (good["width"], good["height"], good["frames"]) == (25, 18, 1)
    assert good["seconds"] >= 0
    assert len(records) == 3


def test_quiet_says_nothing_that_is_not_wrong(user: User) -> None:
    assert user.types("a.png", "-s", "monet", "--quiet") == 0
    assert user.err == ""
    assert user.out == "a_monet.png\n"


def test_verbose_counts_what_is_left_out(user: User) -> None:
    Path("photos/notes.txt").write_text("hello")
    Path("photos/.hidden.png").write_bytes(b"")
    assert user.types("photos", "-s", "monet", "-o", "out", "--verbose") == 0
    assert "2 files" in user.err
    assert "25×18" in user.err


def test_a_bomb_is_refused_and_can_be_allowed(user: User) -> None:
    assert user.types("a.png", "-s", "monet", "--max-pixels", "449") == 1
    assert "a.png has 25×18 pixels" in user.err
    assert "--max-pixels" in user.err
    assert user.types("a.png", "-s", "monet", "--max-pixels", "450") == 0


def test_a_resolution_that_the_memory_cannot_hold_is_one_failure(user: User) -> None:
    assert user.types("a.png", "-s", "monet", "--resolution", "9999999") == 1
    assert "9999999×7199999 pixels (--resolution 9999999) needs" in user.err
    assert user.files() == {"a.png", "photos/b.png", "photos/deep/c.png"}


USAGE_ERRORS = {
    "no input": (["-s", "monet"], "Nothing to translate"),
    "no style": (["a.png"], "Missing option --style"),
    "unknown style": (["a.png", "-s", "monte"], "Did you mean monet"),
    "missing input": (["b.png", "-s", "monet"], "b.png"),
    "several missing": (["x.png", "y.png", "-s", "monet"], "x.png, y.png"),
    "pattern without match": (["*.tif", "-s", "monet"], "*.tif"),
    "an empty folder": (["empty", "-s", "monet"], "empty"),
    "an output that is the input": (["a.png", "-s", "monet", "-o", "a.png"], "a.png"),
    "several inputs, one file": (["a.png", "photos", "-s", "monet", "-o", "a.jpg"], "a.jpg"),
    "several to stdout": (["photos", "-s", "monet", "-o", "-"], "-o -"),
    "an unknown extension": (["a.png", "-s", "monet", "-o", "b.xyz"], "b.xyz"),
    "an unknown format": (["a.png", "-s", "monet", "--format", "xyz"], "xyz"),
    "both": (["a.png", "-s", "monet", "--overwrite", "--skip-existing"], "exclude"),
    "strength": (["a.png", "-s", "monet", "--strength", "1.5"], "strength"),
    "quality": (["a.png", "-s", "monet", "--quality", "0"], "quality"),
    "resolution": (["a.png", "-s", "monet", "--resolution", "big"], "--resolution big"),
    "memory": (["a.png", "-s", "monet", "--max-memory", "lots"], "--max-memory lots"),
    "little memory": (["a.png", "-s", "monet", "--max-memory", "10K"], "--max-memory"),
    "precision": (["a.png", "-s", "monet", "--precision", "fp8"], "fp8"),
    "a list that is not there": (["-s", "monet", "--from-file", "no.txt"], "no.txt"),
    "json and NUL": (["a.png", "-s", "monet", "--print0", "--json"], "--print0"),
    "stdin mixed": (["-", "a.png", "-s", "monet"], "stdin"),
    "json and a picture": (["a.png", "-s", "monet", "-o", "-", "--json"], "JSON"),
    "an unknown option": (["a.png", "-s", "monet", "--sytle"], "--sytle"),
}


def test_usage_errors_exit_2_name_the_cause_and_import_no_torch(user: User) -> None:
    """In one process, since its start is what takes the time."""
    Path("empty").mkdir()
    before = user.files()
    cases = json.dumps([arguments for arguments, _ in USAGE_ERRORS.values()])
    code = (
        "import contextlib, io, json, sys\n"
        "from cyclegan_cli.cli.app import main\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    err, out = io.StringIO(), io.StringIO()\n"
        "    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):\n"
        "        code = main(['translate', *arguments])\n"
        "    heavy = [m for m in ('torch', 'numpy', 'PIL') if m in sys.modules]\n"
        "    print(json.dumps([code, err.getvalue(), out.getvalue(), heavy]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, cases],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    results = dict(zip(USAGE_ERRORS, map(json.loads, done.stdout.splitlines()), strict=True))
    for name, (_, words) in USAGE_ERRORS.items():
        exit_code, err, out, heavy = results[name]
        assert (exit_code, out, heavy) == (2, "", []), (name, err)
        assert words in err, name
        assert "Traceback" not in err, name
    assert user.files() == before


def test_a_device_that_is_not_there_is_no_silent_fall_back(user: User) -> None:
    assert user.types("a.png", "-s", "monet", "--gpu", "77") == 2
    assert "no CUDA device 77" in user.err
    assert not Path("a_monet.png").exists()


# -- pipes -----------------------------------------------------------------------------------


class _Stdin:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


def test_stdin_to_a_file(
    user: User, weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", _Stdin(Path("a.png").read_bytes()))
    assert user.types("-", "-s", "monet", "-o", "out.png") == 0
    assert user.out == "out.png\n"
    assert np.array_equal(user.pixels("out.png"), painted(user.pixels("a.png"), weights["a"]))


def test_a_bad_stdin_is_one_failure(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    for data, words in ((b"", "empty"), (b"GIF89a but no", "damaged")):
        monkeypatch.setattr(sys, "stdin", _Stdin(data))
        assert user.types("-", "-s", "monet", "-o", "out.png") == 1
        assert "stdin" in user.err
        assert words in user.err
        assert not Path("out.png").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="closed streams are a Unix shell's")
def test_no_stdin_and_no_stdout(user: User) -> None:
    """As a shell's ``<&-`` and ``>&-`` leave them, and some that start programs at night."""

    def shell(line: str) -> tuple[int, str]:
        command = f'"{sys.executable}" -m cyclegan_cli translate -s monet {line}'
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, env=environment(), check=False, text=True
        )
        return done.returncode, done.stderr

    assert shell("- -q <&-") == (1, "error: stdin is empty.\n")
    code, said = shell("a.png -o - >&-")
    assert code == 2
    assert "stdout, which is closed" in said
    assert shell("a.png -q >&-") == (0, "")
    assert user.pixels("a_monet.png").shape == (18, 25, 3)


# -- stopping --------------------------------------------------------------------------------


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_whole_pictures_and_nothing_else(
    user: User, monkeypatch: pytest.MonkeyPatch, signum: signal.Signals, code: int
) -> None:
    for k in range(6):
        Path(f"photos/{k}.png").write_bytes(Path("a.png").read_bytes())
    calls = []
    paint = effects.paint_picture

    def stop_in_the_third(*arguments: Any, **chosen: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            signal.raise_signal(signum)
        return paint(*arguments, **chosen)

    monkeypatch.setattr(effects, "paint_picture", stop_in_the_third)
    assert user.types("photos", "-s", "monet", "-o", "out") == code
    written = {p.name for p in Path("out").rglob("*") if p.is_file()}
    assert written <= {"0.png", "1.png"}, "whole pictures under their names, no temporary one"
    for name in written:
        assert user.pixels(f"out/{name}").shape == (18, 25, 3)
    assert {f"out/{name}" for name in written} >= set(user.out.splitlines()) >= {"out/0.png"}
    assert "--skip-existing" in user.err
    names = {thread.name for thread in threading.enumerate()}
    assert not names & {"read-ahead", "write-behind"}


def test_a_process_that_is_terminated_ends_soon_and_clean(
    user: User, weights: dict[str, Path]
) -> None:
    for k in range(400):
        Path(f"photos/{k}.png").write_bytes(Path("a.png").read_bytes())
    with subprocess.Popen(
        [sys.executable, "-m", "cyclegan_cli", "translate", "photos", "-s", "monet", "-o", "out"],
        env=environment({"PYTHONPATH": str(REPOSITORY)}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "out/0.png\n"
        program.send_signal(signal.SIGTERM)
        rest, err = program.communicate(timeout=30)
    assert program.returncode == 143
    assert "Traceback" not in err
    written = [p.name for p in Path("out").rglob("*") if p.is_file()]
    assert 1 <= len(written) < 400
    assert not [name for name in written if name.startswith(".")]
    assert {f"out/{name}" for name in written} >= set(rest.splitlines())
    for name in written:
        assert user.pixels(f"out/{name}").shape == (18, 25, 3)
