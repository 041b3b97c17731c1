"""What holds for every command: streams, exit codes, help, and no traceback for a user."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyclegan_cli import __version__
from cyclegan_cli.cli import app as app_module
from cyclegan_cli.cli import doctor
from cyclegan_cli.cli.app import main
from cyclegan_cli.cli.console import Console, printable
from cyclegan_cli.cli.processes import Stopped
from cyclegan_cli.engine.fast.kernels import library
from cyclegan_cli.files import read_toml
from tests.program import REPOSITORY, environment, make_pictures, read_terminal, run
from tests.report.run_folder import whole_run
from tests.styles.make import a_style

COMMANDS = [
    (),
    ("train",),
    ("resume",),
    ("translate",),
    ("report",),
    ("timelapse",),
    ("demo",),
    ("evaluate",),
    ("preview",),
    ("doctor",),
    ("docs",),
    *(("runs", name) for name in ("list", "show", "open", "remove")),
    ("pretrained",),
    ("datasets",),
    *(("datasets", name) for name in ("list", "show", "download")),
    *(
        ("pretrained", name)
        for name in ("list", "show", "path", "verify", "import", "export", "remove", "download")
    ),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_help_page_fits_80_columns_and_has_an_example(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--help"]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert max(map(len, output.out.splitlines())) <= 80
    assert f"cyclegan {' '.join(command)}".strip() in output.out.split("Options:")[0]
    assert "Example" in output.out
    assert "[bold]" not in output.out
    summaries = output.out.partition("Commands:")[2].splitlines()
    assert not [line for line in summaries if line.endswith("...")], "a cut-off summary"


GROUPS = {
    "train": {
        "Options": "--name",
        "Pictures": "--crop-size",
        "Length and learning rate": "--epochs",
        "Losses": "--lambda-cycle",
        "Networks": "--generator",
        "Device": "--gpu",
        "Saving and watching": "--checkpoint-every",
        "Research": "--seed",
    },
    "translate": {
        "Options": "-s, --style",
        "Painting": "--strength",
        "Inputs": "--from-file",
        "Outputs": "--overwrite",
        "Device": "--gpu",
    },
}


@pytest.mark.parametrize("command", GROUPS)
def test_long_help_is_in_groups_each_with_its_usual_options_first(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    pages = re.split(r"\n\n(\w[\w ]*):\n", capsys.readouterr().out.partition("Arguments:")[2])[1:]
    found = dict(zip(pages[::2], pages[1::2], strict=True))
    assert list(found) == list(GROUPS[command])
    for heading, first in GROUPS[command].items():
        assert found[heading].lstrip().startswith(f"{first} "), heading
    texts = [re.match(r"  -.*?  +(?=\S)", line) for line in "\n".join(found.values()).splitlines()]
    assert len({len(text[0]) for text in texts if text}) == 1, "one column of texts"


def test_help_version_completion_and_usage_errors_come_without_torch(tmp_path: Path) -> None:
    script = tmp_path / "light.py"
    script.write_text(
        "import sys\n"
        "from cyclegan_cli.cli.app import main\n"
        "codes = [main(a) for a in (['--help'], ['--version'], ['train', '--help'],\n"
        "  ['pretrained', 'list'], ['pretrained', 'list', '--json'], ['train'], ['tarin'],\n"
        "  ['translate', 'a.jpg'], ['translate', 'nowhere.jpg', '--style', 'none'],\n"
        "  ['train', 'a', 'a', '--epochs', 'x'], ['resume'], ['resume', 'nothing'],\n"
        "  ['datasets', 'list'], ['datasets', 'show', 'map'])]\n"
        "heavy = {'torch', 'torchvision', 'imageio'} & set(sys.modules)\n"
        "print(codes, heavy, file=sys.stderr)\n"
    )
    done = run(script=script)
    expected = [0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 0, 2, 0, 2]
    assert done.stderr.decode().splitlines()[-1] == f"{expected} set()"


def test_the_version_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr() == (f"cyclegan {__version__}\n", "")


def test_usage_errors_go_to_stderr_with_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tarin"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "train" in output.err


def _fail(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def raising(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(app_module, "build_app", raising)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (RuntimeError("odd\nand long"), 1, "RuntimeError: odd"),
        (MemoryError(), 1, "memory is full"),
        (RuntimeError("can't start new thread"), 1, "ulimit -u"),
        (OSError(28, "No space left on device", "/x/y"), 1, "/x/y: No space left on device."),
        (Stopped(2), 130, "Interrupted"),
        (Stopped(15), 143, "Interrupted"),
    ],
)
def test_no_error_is_shown_as_a_traceback(
    error: BaseException,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _fail(monkeypatch, error)
    assert main([]) == code
    output = capsys.readouterr()
    assert words in output.err
    assert "Traceback" not in output.err
    assert output.out == ""


def test_a_thread_that_dies_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(*_: object, **__: object) -> None:
        thread = threading.Thread(target=lambda: int("odd"))
        thread.start()
        thread.join()

    before = threading.excepthook
    monkeypatch.setattr(app_module, "build_app", lambda _: work)
    assert main([]) == 1
    output = capsys.readouterr()
    assert output.err.startswith("error: ValueError: ")
    assert "Traceback" not in output.err
    assert threading.excepthook is before


# What PyTorch is not needed for, and what it is, with what the latter then says.
WITHOUT_TORCH = [
    ["translate", "a.png", "-s", "monet", "--gpu", "cpu"],
    ["translate", "a.png", "-s", "vangogh", "--gpu", "auto", "--reverse"],
    ["preview", "a.png"],
    ["pretrained", "list"],
    ["pretrained", "show", "monet"],
    ["pretrained", "path", "monet", "--weights"],
    ["pretrained", "export", "monet", "monet.safetensors"],
    ["pretrained", "remove", "mine", "-y"],
    ["resume"],
    ["report", "run"],
    ["timelapse", "run", "-o", "film.gif"],
    ["datasets", "list"],
    ["runs"],
    ["doctor"],
    ["docs", "guide"],
]
WITH_TORCH = [
    ["translate", "a.png", "-s", "monet", "--gpu", "0", "-o", "b.png"],
    ["translate", "a.png", "-s", "monet", "--exact-reference", "-o", "b.png"],
    ["train", "x", "y"],
    ["evaluate", "monet", "x", "y"],
    ["pretrained", "verify", "monet"],
    ["pretrained", "import", "monet.safetensors", "--name", "again"],
    ["pretrained", "export", "monet", "monet.pth"],
    ["pretrained", "download", "cezanne"],
]
RUN_ALL = """
import contextlib, io, json, sys, traceback
{block}
from cyclegan_cli.cli.app import main
for arguments in json.loads(sys.argv[1]):
    err, out = io.StringIO(), io.TextIOWrapper(io.BytesIO(), 'utf-8')
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
        code = main(arguments)
    print(json.dumps([code, err.getvalue()]))
"""
# As where it is not installed; where one of its libraries cannot be mapped; where it needs another.
NOT_INSTALLED = "sys.modules['torch'] = None"
BROKEN = """
import pathlib, tempfile
folder = pathlib.Path(tempfile.mkdtemp(dir='.')) / 'torch'
folder.mkdir()
(folder / '__init__.py').write_text({source!r})
sys.path.insert(0, str(folder.parent))
"""
MAPPED = "raise ImportError('libtorch_cpu.so: failed to map segment from shared object')"
BLOCKS = {
    "not installed": (NOT_INSTALLED, ["PyTorch is not installed", "-m pip install torch"]),
    "broken": (BROKEN.format(source=MAPPED), ["cannot be loaded: libtorch_cpu.so", "reinstall"]),
    "no memory": (BROKEN.format(source="raise MemoryError"), ["cannot be loaded: MemoryError"]),
    "no sympy": (BROKEN.format(source="import sympy_of_torch"), ["cannot be loaded", "sympy_of"]),
}


@pytest.mark.bundled
@pytest.mark.skipif(
    library() is None or sys.platform != "linux",
    reason="painting needs PyTorch without the kernels, and to look for a GPU outside Linux",
)
@pytest.mark.parametrize("block", BLOCKS)
def test_without_torch_what_needs_none_works_and_the_rest_says_so(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("x", "y"):
        make_pictures(tmp_path / folder, 3, 1)
    make_pictures(tmp_path, 1, 0).joinpath("00.png").rename("a.png")
    whole_run(tmp_path / "home" / "runs" / "run")
    a_style(tmp_path / "weights", "mine")
    commands = WITHOUT_TORCH + WITH_TORCH
    code, words = BLOCKS[block]
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL.format(block=code), json.dumps(commands)],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    for command, (exit_code, said) in zip(commands, results, strict=True):
        if command in WITHOUT_TORCH:
            assert exit_code == 0, (command, said)
        else:
            assert exit_code == 1, (command, said)
            assert all(word in said for word in words), (command, said)
            assert "defect" not in said
            assert "Traceback" not in said
    assert {"a_monet.png", "film.gif", "monet.safetensors"} <= {p.name for p in tmp_path.iterdir()}


PAINT = """
import sys
sys.modules['torch'] = None
import numpy as np
from PIL import Image
from cyclegan_cli import load_style, translate
array = np.full((20, 30, 3), 99, np.uint8)
painted = load_style("vangogh")(array, strength=0.5)
assert painted.shape == array.shape and (painted != array).any()
assert translate(Image.fromarray(array), "monet", reverse=True).size == (30, 20)
"""


@pytest.mark.bundled
@pytest.mark.skipif(library() is None or sys.platform != "linux", reason="PyTorch is asked there")
def test_python_paints_without_torch() -> None:
    command = [sys.executable, "-c", PAINT]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr


def test_the_groups_are_all_dependencies_but_pytorch_and_doctor_knows_the_extras() -> None:
    project = read_toml(REPOSITORY / "pyproject.toml")
    needed = project["project"]["dependencies"]
    groups = project["dependency-groups"]
    without = [one for one in needed if not one.startswith("torch")]
    assert sorted(groups["painting"] + groups["videos"]) == sorted(without)
    assert len(without) == len(needed) - 2  # torch and torchvision
    assert [one.partition(">")[0] for one in groups["videos"]] == ["imageio-ffmpeg"]
    extras = project["project"]["optional-dependencies"]
    assert doctor._PURPOSES.keys() == extras.keys() - {"test", "peers"}


@pytest.mark.bundled
@pytest.mark.skipif(library() is None or sys.platform != "linux", reason="ulimit is a shell's")
def test_an_address_space_that_is_too_small_for_torch_is_named(tmp_path: Path) -> None:
    make_pictures(tmp_path, 1, 0)
    shell = f"cd '{tmp_path}'; ulimit -v 1000000; exec '{sys.executable}' -m cyclegan_cli"
    done = {
        command: subprocess.run(
            ["bash", "-c", f"{shell} {command}"],
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        for command in ("translate 00.png -s monet", "pretrained verify monet")
    }
    painted, verified = done.values()
    assert (painted.returncode, painted.stdout) == (0, "00_monet.png\n"), painted.stderr
    assert verified.returncode == 1
    assert "PyTorch is installed, but cannot be loaded" in verified.stderr
    assert "ulimit -v unlimited" in verified.stderr


def test_debug_shows_the_traceback() -> None:
    done = run("resume", "nothing", "--debug")
    assert b"Traceback" in done.stderr
    assert b"UnknownNameError" in done.stderr


def test_a_reader_that_leaves_ends_it_quietly(tmp_path: Path) -> None:
    program = subprocess.Popen(
        [sys.executable, "-m", "cyclegan_cli", "pretrained", "list", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert program.stdout is not None
    program.stdout.close()
    assert program.stderr is not None
    assert program.stderr.read() == b""
    program.stderr.close()
    assert program.wait(60) == 141


@pytest.mark.skipif(os.name == "nt", reason="closed streams are a Unix shell's")
def test_streams_that_are_closed_from_the_start(tmp_path: Path) -> None:
    def shell(line: str) -> tuple[int, str]:
        command = f'"{sys.executable}" -m cyclegan_cli {line}'
        environ = environment({"CYCLEGAN_HOME": str(tmp_path)})
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, env=environ, check=False
        )
        return done.returncode, done.stderr.decode()

    assert shell("--version >&-") == (0, "")
    assert shell("--version 2>&-") == (0, "")
    for line in ("translate -s none - <&-", "translate -s none --from-file - <&-"):
        code, said = shell(line)
        assert code == 2
        assert "no style named 'none'" in said


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_output_is_safe_on_any_console(encoding: str, tmp_path: Path) -> None:
    script = tmp_path / "say.py"
    script.write_text(
        "from cyclegan_cli.cli.console import Console, safe_streams\n"
        "from cyclegan_cli.errors import UsageError\n"
        "safe_streams()\n"
        "console = Console()\n"
        "console.result('東京 → ∞')\n"
        "console.note('a → b × λ … ² ↔ 東京')\n"
        "console.error(UsageError('no → way', hint='try … this'))\n"
    )
    done = run(script=script, env={"PYTHONIOENCODING": encoding})
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    assert done.stdout.decode(encoding).startswith("東京" if encoding == "utf-8" else "\\u6771")
    assert b"try" in done.stderr


def test_file_names_that_are_not_utf8_leave_as_the_bytes_they_came_as(tmp_path: Path) -> None:
    script = tmp_path / "say.py"
    script.write_text(
        "import os\n"
        "from cyclegan_cli.cli.console import Console, safe_streams\n"
        "safe_streams()\n"
        "Console().result(os.fsdecode(b'caf\\xe9.jpg'))\n"
    )
    assert run(script=script, env={"PYTHONUTF8": "1"}).stdout == b"caf\xe9.jpg\n"


def test_progress_in_a_log_is_plain_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 10_000, 6))
    monkeypatch.setattr("cyclegan_cli.cli.console.time.monotonic", lambda: float(next(clock)))
    with Console().progress("working", 4) as bar:
        for _ in range(4):
            bar.advance(text="well")
    output = capsys.readouterr()
    assert output.out == ""
    assert "working 2/4 well\n" in output.err
    assert "\x1b" not in output.err
    with Console(quiet=True).progress("working", 4) as bar:
        bar.advance(4)
    assert capsys.readouterr().err == ""


def test_tables_are_tab_separated_in_pipes_and_objects_under_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = (("a", "b"), [("1", "two")], [{"a": 1, "b": "two"}])
    Console().table(*arguments)
    assert capsys.readouterr().out == "1\ttwo\n"
    Console(as_json=True).table(*arguments)
    assert capsys.readouterr().out == '{"a": 1, "b": "two"}\n'


@given(st.text(st.characters(), max_size=20))
@settings(deadline=None)
def test_what_is_printed_to_people_is_one_harmless_line(text: str) -> None:
    shown = printable(text)
    assert printable(shown) == shown
    assert len(shown.splitlines()) <= 1
    kept = [c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    assert set(kept) <= {"\u200c", "\u200d"}
    if text.isprintable():
        assert shown == text


def test_names_in_every_alphabet_are_printed_as_they_are() -> None:
    names = "naïve.jpg", "写真　一.png", "صورة.jpg", "👩\u200d🚀.png", "क्\u200dष.jpg", "a b\\c.tif"
    assert tuple(map(printable, names)) == names
    assert printable(os.fsdecode(b"caf\xe9.jpg")) == "caf\\xe9.jpg"


@pytest.mark.skipif(os.name != "posix", reason="a pseudo-terminal is a Unix thing")
@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
def test_nothing_from_outside_steers_a_terminal(term: str, tmp_path: Path) -> None:
    import pty

    script = tmp_path / "say.py"
    script.write_text(
        "import sys\n"
        "from cyclegan_cli.cli.console import Console, safe_streams\n"
        "from cyclegan_cli.errors import UsageError\n"
        "safe_streams()\n"
        "console, odd = Console(verbose=True), 'BAD\\x1b]0;t\\a\\r\\n\\x9b2J\\udc9b[/red]'\n"
        "console.result(odd)\n"
        "console.table((odd, 'b'), [(odd, odd)], [{}])\n"
        "console.summary(odd, [(odd, odd)])\n"
        "console.note(odd); console.detail(odd); console.warn(odd)\n"
        "console.error(UsageError(odd, hint=odd))\n"
        "with console.progress('working', 2) as bar:\n"
        "    bar.advance(text=odd); console.note(odd)\n"
    )
    master, slave = pty.openpty()
    environ = {**environment({"COLUMNS": "300"}), "TERM": term, "NO_COLOR": "1"}
    program = subprocess.Popen(
        [sys.executable, str(script)], stdout=slave, stderr=slave, env=environ
    )
    os.close(slave)
    output = read_terminal(master)
    assert program.wait(60) == 0, output
    assert output.count(b"BAD\\x1b]0;t\\x07\\r\\n\\x9b2J\\x9b[/red]") >= 10
    for steering in (b"\x1b]", b"\a", b"\xc2\x9b", b"2J\x9b", b"BAD\x1b"):
        assert steering not in output


LONG = """
from cyclegan_cli.cli.console import Console
from cyclegan_cli.errors import UsageError
console = Console()
words = " ".join(f"word{number}" for number in range(40))
console.warn(words)
console.error(UsageError(words))
with console.progress("Translating", 4) as bar:
    bar.advance(2)
"""


@pytest.mark.skipif(os.name != "posix", reason="a pseudo-terminal is a Unix thing")
@pytest.mark.parametrize("columns", [50, 80, 120])
def test_a_terminals_width_is_used_and_no_word_is_cut(columns: int, tmp_path: Path) -> None:
    import pty

    script = tmp_path / "say.py"
    script.write_text(LONG)
    master, slave = pty.openpty()
    environ = {**environment({"COLUMNS": str(columns)}), "TERM": "xterm", "NO_COLOR": "1"}
    environ["PYTHONIOENCODING"] = "utf-8"
    program = subprocess.Popen(
        [sys.executable, str(script)], stdout=slave, stderr=slave, env=environ
    )
    os.close(slave)
    output = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", read_terminal(master).decode())
    assert program.wait(60) == 0, output
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", output) if "word" in line]
    found = [word for line in lines for word in line.split() if word.startswith("word")]
    assert found == [f"word{number}" for number in range(40)] * 2
    assert columns - 8 < max(map(len, lines)) <= columns
    bars = [line for line in re.split(r"[\r\n]+", output) if "2/4" in line]
    assert {len(line.rstrip()) for line in bars} <= set(range(columns - 2, columns + 1))
    assert max(line.count("━") for line in bars) > (columns - 30) // 2 - 3, "half of a wide bar"


@pytest.mark.skipif(os.name != "posix", reason="a pseudo-terminal is a Unix thing")
def test_a_terminal_gets_colour_unless_it_says_no() -> None:
    import pty

    def said(**extra: str) -> bytes:
        master, slave = pty.openpty()
        program = subprocess.Popen(
            [sys.executable, "-m", "cyclegan_cli", "resume", "nothing"],
            stderr=slave,
            stdout=slave,
            stdin=slave,
            env={**environment(extra), "TERM": extra.get("TERM", "xterm-256color")},
        )
        os.close(slave)
        output = read_terminal(master)
        assert program.wait(60) == 2
        return output

    assert b"\x1b[" in said()
    assert b"\x1b[3" not in said(NO_COLOR="1")
    assert b"\x1b[" not in said(TERM="dumb")


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["a b.jpg", "--style", "monet"], "cyclegan translate 'a b.jpg' --style monet"),
        (["--style", "monet", "a b.jpg"], "cyclegan translate --style monet 'a b.jpg'"),
        (["here", "--style", "monet"], "cyclegan translate here --style monet"),
        (["here", "there", "--epochs", "2"], "cyclegan train here there --epochs 2"),
        (["-odd.jpg", "-s", "monet"], "cyclegan translate ./-odd.jpg -s monet"),
        (["translate", "-odd.jpg", "-s", "monet"], "cyclegan translate ./-odd.jpg -s monet"),
        (["translate", "--style"], "cyclegan translate --help"),
        (["trian", "here", "there"], "cyclegan --help"),
        (["train", "photos"], "Two folders: cyclegan train X_DIR Y_DIR"),
        (["translate", "x.jpg", "--strenght", "1"], "cyclegan translate --help"),
        (["train", "x", "y", "--lambda_cycle", "1"], "cyclegan train --help"),
    ],
)
def test_usage_errors_have_one_form_and_say_what_to_type(
    arguments: list[str],
    meant: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("a b.jpg", "-odd.jpg"):
        (tmp_path / name).touch()
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("error: ")
    assert lines[1].strip(" →") == meant


def test_every_command_can_be_called_and_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out.split("Commands:")[1].splitlines()
    names = [line.split()[0] for line in listed if line.strip()]
    assert len(names) >= 12
    for name in names:
        assert main([name, "--help"]) == 0
        text = capsys.readouterr().out
        assert text.startswith(f"Usage: cyclegan {name} ")
        assert "Examples:" in text
