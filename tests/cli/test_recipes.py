"""docs/recipes.md, line by line, in bash."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cyclegan_cli.engine.networks import Generator
from cyclegan_cli.engine.weights import save_generator
from cyclegan_cli.settings import GeneratorSpec
from cyclegan_cli.styles.store import add_style
from tests.forkserver import command
from tests.program import REPOSITORY, environment, run

RECIPES = {
    cells[0]: cells[1].removeprefix("`").removesuffix("`").replace("\\|", "|")
    for line in (REPOSITORY / "docs" / "recipes.md").read_text("utf-8").splitlines()
    if line.startswith("| ") and len(cells := re.split(r" (?<!\\)\| ", line[2:-2])) == 2
    if cells[0] != "You want"
}
SIZES = {"a.jpg": (24, 17), "b b.jpg": (16, 20), "trip/c.jpg": (18, 18), "trip/d.png": (20, 16)}
JPEGS = [name for name in SIZES if name.endswith(".jpg")]
FLAT = sorted(f"paintings/{Path(name).name}" for name in JPEGS)
TREE = sorted(f"paintings/{name}" for name in SIZES)
LOUD = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")


class Shell:
    """A user's folder, and bash in it."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder = folder
        self._variables = variables
        self.stdout = ""
        self.stderr = ""

    def type(self, line: str) -> int:
        """Run ``line``; returns what ``$?`` says, with a failure anywhere in a pipe counted."""
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            cwd=self.folder,
            env=self._variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
            check=False,
        )
        self.stdout, self.stderr = os.fsdecode(done.stdout), os.fsdecode(done.stderr)
        return done.returncode

    def lines(self) -> list[str]:
        return self.stdout.splitlines()

    def image(self, name: str, kind: str | None = None) -> Image.Image:
        """The decoded picture; ``kind``: which format it must have."""
        with Image.open(self.folder / name) as image:
            assert kind in (None, image.format)
            image.load()
        return image

    def made(self) -> list[str]:
        """Every file that was not there before, hidden ones too."""
        before = {"photo.jpg", "-odd.jpg", "list.txt", *(f"photos/{name}" for name in SIZES)}
        after = {str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file()}
        return sorted(after - before)


@pytest.fixture(scope="module")
def shell_variables() -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        home = Path(folder, "home")
        patch.setenv("CYCLEGAN_HOME", str(home))
        weights = {}
        for seed, way in enumerate(("xy", "yx")):
            torch.manual_seed(seed)
            weights[way] = Path(folder, f"{way}.safetensors")
            spec = GeneratorSpec(name="tiny", blocks=1, width=2, separable=True, upsample="resize")
            save_generator(weights[way], Generator(spec))
        add_style("monet", x="photo", y="monet", origin="trained", weights=weights, card={})
        other = {"xy": weights["yx"], "yx": weights["xy"]}
        add_style("vangogh", x="photo", y="vangogh", origin="trained", weights=other, card={})
        place = Path(folder, "fork")
        place.mkdir()
        with command(place) as programs:
            path = f"{programs}{os.pathsep}{os.environ['PATH']}"
            yield environment({"PATH": path, "CYCLEGAN_HOME": str(home)})


@pytest.fixture
def shell(tmp_path: Path, shell_variables: dict[str, str]) -> Shell:
    folder = tmp_path / "user"
    random = np.random.default_rng(4)
    names = {"photo.jpg": (22, 30), "-odd.jpg": (16, 16)}
    names |= {f"photos/{name}": size for name, size in SIZES.items()}
    for name, (width, height) in names.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 256, (3, 3, 3), dtype=np.uint8))
        image = coarse.resize((width, height), Image.Resampling.BICUBIC)
        exif = Image.Exif()
        exif[0x010F] = "Camera Works"
        image.save(folder / name, exif=exif)
    (folder / "list.txt").write_text("".join(f"photos/{name}\n" for name in JPEGS))
    return Shell(folder, shell_variables)


def all_written(shell: Shell, names: list[str]) -> None:
    """stdout names exactly ``names``, which are all that was made, each of its input's size."""
    assert sorted(shell.lines()) == sorted(names)
    assert shell.made() == sorted(names)
    for name in names:
        stem = Path(name).stem.removesuffix("_monet")
        size = next(size for known, size in SIZES.items() if Path(known).stem == stem)
        assert shell.image(name).size == size


# -- one check a recipe, under its name in the document ----------------------------------------


def two_styles(shell: Shell, line: str) -> None:
    assert shell.type(line) == 0
    assert shell.lines() == shell.made() == ["photo_monet.jpg", "photo_vangogh.jpg"]
    one, other = (np.asarray(shell.image(name, "JPEG")) for name in shell.made())
    assert one.shape == other.shape
    assert not np.array_equal(one, other)


def one_picture(shell: Shell, line: str) -> None:
    assert shell.type(line) == 0
    assert shell.lines() == shell.made() == ["photo_monet.jpg"]
    painted = shell.image("photo_monet.jpg", "JPEG")
    assert painted.size == (22, 30)
    assert painted.getexif()[0x010F] == "Camera Works"
    assert not np.array_equal(np.asarray(painted), np.asarray(shell.image("photo.jpg")))
    assert shell.type(line) == 2, "what exists is refused"
    assert "photo_monet.jpg" in shell.stderr


def another_name(shell: Shell, line: str) -> None:
    assert shell.type(line) == 0
    assert shell.lines() == shell.made() == ["painting.png"]
    assert shell.image("painting.png", "PNG").size == (22, 30)


def a_folder(shell: Shell, line: str) -> None:
    assert shell.type(line) == 0
    all_written(shell, TREE)


def what_would_be_done(shell: Shell, line: str) -> None:
    assert shell.type(line) == 0
    assert len(shell.lines()) == len(SIZES)
    assert all(name in shell.stdout for name in TREE)
    assert shell.made() == []


def go_on(shell: Shell, line: str) -> None:
    assert shell.type("cyclegan translate photos/a.jpg -s monet -o paintings/") == 0
    first = (shell.folder / "paintings/a.jpg").stat().st_mtime_ns
    assert shell.type(line) == 0
    assert sorted(shell.lines()) == sorted(set(TREE) - {"paintings/a.jpg"})
    assert shell.made() == TREE
    assert (shell.folder / "paintings/a.jpg").stat().st_mtime_ns == first


def some_of_a_folder(shell: Shell, line: str) -> None:
    assert shell.type(line) == 0
    all_written(shell, ["paintings/a.jpg", "paintings/b b.jpg"])


def flat(shell: Shell, line: str) -> None:
    assert shell.type(line) == 0
    all_written(shell, FLAT)


def all_as_png(shell: Shell, line: str) -> None:
    assert shell.type(line) == 0
    names = sorted(str(Path(name).with_suffix(".png")) for name in TREE)
    all_written(shell, names)
    assert {shell.image(name, "PNG").format for name in names}


def to_publish(shell: Shell, line: str) -> None:
    assert shell.type(line) == 0
    assert not shell.image("public.jpg", "JPEG").getexif()
    assert b"Camera Works" not in (shell.folder / "public.jpg").read_bytes()


def a_dash(shell: Shell, line: str) -> None:
    assert shell.type(line) == 0
    assert shell.made() == ["-odd_monet.jpg"]


def side_by_side(shell: Shell, line: str) -> None:
    assert shell.type(line) == 0
    both = np.asarray(shell.image("both.png", "PNG"))
    assert both.shape == (30, 44, 3)
    assert np.array_equal(both[:, :22], np.asarray(shell.image("photo.jpg")))


def two_lines_of_a_list(shell: Shell, line: str) -> None:
    assert shell.type(line) == 0
    all_written(shell, ["paintings/a.jpg", "paintings/b b.jpg"])


def with_parallel(shell: Shell, line: str) -> None:
    if shutil.which("parallel") is None:
        pytest.skip("GNU parallel is not installed")
    flat(shell, line)


def a_loop(shell: Shell, line: str) -> None:
    assert shell.type(line) == 0
    beside = [f"photos/{name[:-4]}_monet.jpg" for name in JPEGS]
    assert shell.lines() == beside, "the loop's list is not read by the program inside it"
    assert shell.stderr == ""
    assert shell.made() == sorted(beside)


def same_as_file(shell: Shell, name: str, extra: str = "") -> None:
    """The picture in ``name`` is, byte for byte, the one that ``-o`` writes."""
    suffix = Path(name).suffix
    line = f"cyclegan translate photo.jpg -s monet {extra} -o other{suffix}"
    assert shell.type(line) == 0, shell.stderr
    assert (shell.folder / name).read_bytes() == (shell.folder / f"other{suffix}").read_bytes()


def stdin_to_stdout(shell: Shell, line: str) -> None:
    assert shell.type(line) == 0
    assert shell.made() == ["painting.jpg"]
    same_as_file(shell, "painting.jpg")


def stdin_to_png(shell: Shell, line: str) -> None:
    assert shell.type(line) == 0
    assert shell.made() == ["painting.png"]
    assert shell.image("painting.png", "PNG").size == (22, 30)
    same_as_file(shell, "painting.png")


def there_and_back(shell: Shell, line: str) -> None:
    assert shell.type(line) == 0
    assert shell.image("back.jpg", "JPEG").size == (22, 30)
    steps = (
        "cyclegan translate photo.jpg -s monet -o 1.jpg && "
        "cyclegan translate 1.jpg -s monet --reverse -o 2.jpg"
    )
    assert shell.type(steps) == 0
    assert (shell.folder / "back.jpg").read_bytes() == (shell.folder / "2.jpg").read_bytes()


def only_the_first(shell: Shell, line: str) -> None:
    # 141: as a shell counts a closed pipe. 0: all was written before ``head`` ended.
    assert shell.type(line) in (0, 141), shell.stderr
    assert shell.lines() == ["paintings/a.jpg"]
    assert "error" not in shell.stderr
    assert "Traceback" not in shell.stderr
    for name in shell.made():  # what was written is whole
        assert name in TREE
        shell.image(name)


def packed(shell: Shell, line: str) -> None:
    assert shell.type(line) == 0
    with tarfile.open(shell.folder / "paintings.tgz") as archive:
        assert sorted(archive.getnames()) == TREE
        member = archive.extractfile("paintings/a.jpg")
        assert member is not None
        assert Image.open(io.BytesIO(member.read())).size == SIZES["a.jpg"]


def for_another_program(shell: Shell, line: str) -> None:
    assert shell.type(line) == 0
    assert sorted(shell.lines()) == TREE


def a_log(shell: Shell, line: str) -> None:
    assert shell.type(line) == 0
    assert shell.stdout == ""
    text = (shell.folder / "log.jsonl").read_text("ascii")
    records = [json.loads(entry) for entry in text.splitlines()]
    assert sorted(record["output"] for record in records) == TREE
    assert {record["input"].replace("photos", "paintings") for record in records} == set(TREE)
    sizes = {record["output"]: (record["width"], record["height"]) for record in records}
    assert sizes == {f"paintings/{name}": size for name, size in SIZES.items()}


def break_one(shell: Shell) -> None:
    whole = (shell.folder / "photos/a.jpg").read_bytes()
    (shell.folder / "photos/a.jpg").write_bytes(whole[: len(whole) // 2])


def what_went_wrong(shell: Shell, line: str) -> None:
    break_one(shell)
    assert shell.type(line) == 1
    assert (shell.stdout, shell.stderr) == ("", "")
    wrong = (shell.folder / "wrong.txt").read_text("utf-8")
    assert "photos/a.jpg" in wrong
    assert "b b.jpg" not in wrong
    assert sorted(set(TREE) - {"paintings/a.jpg"}) == [n for n in shell.made() if n != "wrong.txt"]


def a_script(shell: Shell, line: str) -> None:
    break_one(shell)
    assert shell.type(line) == 0
    assert shell.lines()[-1] == "some are missing: 1"
    assert sorted(shell.lines()[:-1]) == sorted(set(TREE) - {"paintings/a.jpg"})
    assert shell.type(f"{line} --overwrite".replace("||", "--overwrite ||")) == 0


CHECKS: dict[str, Callable[[Shell, str], None]] = {
    "one picture, its painting beside it (`photo_monet.jpg`)": one_picture,
    "the same in two styles (`photo_monet.jpg`, `photo_vangogh.jpg`)": two_styles,
    "another name, another format": another_name,
    "a folder with all its folders, the tree mirrored": a_folder,
    "to see what would be done": what_would_be_done,
    "to go on where an earlier run ended": go_on,
    "some of a folder": some_of_a_folder,
    "more files than the shell can name": flat,
    "all of them as PNG": all_as_png,
    "to publish: neither place nor camera told": to_publish,
    "a picture whose name starts with a dash": a_dash,
    "before and after, side by side": side_by_side,
    "what `find` finds, any name": flat,
    "what a list names, one a line": flat,
    "what a pipe names, one a line": two_lines_of_a_list,
    "`xargs`": flat,
    "two at a time": flat,
    "GNU parallel": with_parallel,
    "a loop": a_loop,
    "stdin to stdout, the format kept": stdin_to_stdout,
    "stdin to stdout, another format": stdin_to_png,
    "a file to stdout": stdin_to_stdout,
    "there and back again": there_and_back,
    "only the first": only_the_first,
    "the results packed": packed,
    "the paths for another program": for_another_program,
    "the same, whatever the names": for_another_program,
    "a log that programs read": a_log,
    "only what went wrong": what_went_wrong,
    "a script that knows": a_script,
}


def test_every_recipe_has_a_check() -> None:
    assert list(RECIPES) == list(CHECKS)


@LOUD
@pytest.mark.parametrize("name", CHECKS)
def test_recipe(name: str, shell: Shell) -> None:
    CHECKS[name](shell, RECIPES[name])


@LOUD
def test_the_program_that_starts_anew_says_the_same(
    shell: Shell, shell_variables: dict[str, str]
) -> None:
    """The fork server stands for the program; here is the program."""
    photo = (shell.folder / "photo.jpg").read_bytes()
    done = run("translate", "-", "--style", "monet", stdin=photo, env=shell_variables)
    assert done.returncode == 0, done.stderr.decode()
    assert shell.type("cyclegan translate - --style monet < photo.jpg > painting.jpg") == 0
    assert (shell.folder / "painting.jpg").read_bytes() == done.stdout
