"""cyclegan pretrained as a user runs it: what is on stdout, on stderr, and the exit code."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from cyclegan_cli.cli.app import main
from cyclegan_cli.cli.options import complete_style
from cyclegan_cli.engine.weights import load_generator
from cyclegan_cli.files import runs_dir, styles_dir
from cyclegan_cli.styles.store import find_style, weights_file
from tests.program import environment, read_terminal, run
from tests.styles.make import TINY_MOBILE, a_style
from tests.styles.public_model import public_generator


class Said:
    """What one command said."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def records(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Run ``cyclegan pretrained ARGUMENTS`` in this process, without a terminal."""
    monkeypatch.setattr("cyclegan_cli.cli.app.stop_on_signals", lambda: None)

    def call(*arguments: str | Path) -> Said:
        code = main(["pretrained", *map(str, arguments)])
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return call


def public_file(folder: Path, name: str = "latest_net_G_A.pth", seed: int = 0) -> Path:
    path = folder / name
    torch.save(public_generator(seed, blocks=6, ngf=4).state_dict(), path)
    return path


def test_list_is_for_eyes_and_for_pipes(say, tmp_path: Path) -> None:
    said = say("list", "--local")
    assert (said.code, said.out) == (0, "")
    assert "cyclegan train X_DIR Y_DIR" in said.err
    a_style(tmp_path, "both")
    a_style(tmp_path, "one way", both=False, origin="imported")
    said = say("list", "--local")
    rows = [line.split("\t") for line in said.out.splitlines()]
    assert rows[0][:3] == ["both", "photo ↔ paint", "trained"]
    assert rows[1][:3] == ["one way", "photo → paint", "imported"]
    assert rows[0][4] == "CC0"
    records = say("list", "--local", "--json").records
    assert [record["name"] for record in records] == ["both", "one way"]
    assert records[0]["directions"]["yx"]["generator"]["blocks"] == 2  # type: ignore[index]


def test_list_says_what_is_hidden_and_what_is_damaged(say, tmp_path: Path) -> None:
    a_style(tmp_path, "monet", origin="downloaded")
    a_style(tmp_path, "monet")
    bad = a_style(tmp_path, "bad").folder
    (bad / "style.json").unlink()
    said = say("list", "--local")
    assert said.code == 0
    assert "'monet' (trained) hides the downloaded style" in said.err
    assert "damaged" in said.err
    assert "cyclegan pretrained remove bad" in said.err


def test_show_tells_everything_and_steers_no_terminal(say, tmp_path: Path) -> None:
    style = a_style(
        tmp_path, card={"licence": "CC0", "source": "\x1b[2Jevil", "training": {"a": 1}}
    )
    said = say("show", "tiny")
    assert said.code == 0
    assert style.directions["xy"].sha256 in said.out
    assert "photo → paint\tresnet2, 2 blocks, width 4" in said.out
    assert "training\ta: 1" in said.out
    assert "\x1b" not in said.out
    assert say("show", "tiny", "--json").records[0]["training"] == {"a": 1}


def test_path_is_one_line_for_scripts(say, tmp_path: Path) -> None:
    style = a_style(tmp_path)
    assert say("path").out == f"{styles_dir()}\n"
    assert say("path", "tiny").out == f"{style.folder}\n"
    assert say("path", "tiny", "--reverse").out == f"{weights_file(style, True)}\n"
    assert say("path", "tiny", "--weights", "--json").records[0]["path"].endswith("xy.safetensors")


@pytest.mark.parametrize("command", ["show", "path", "remove", "verify", "export"])
def test_an_unknown_style_exits_2_with_a_did_you_mean(say, command: str, tmp_path: Path) -> None:
    a_style(tmp_path, "seurat")
    said = say(command, "seuart", *([tmp_path / "x.pth"] if command == "export" else []))
    assert (said.code, said.out) == (2, "")
    assert "There is no style named 'seuart'. Did you mean seurat?" in said.err
    assert "→ cyclegan pretrained list" in said.err


def test_remove_asks_no_pipe(say, tmp_path: Path) -> None:
    style = a_style(tmp_path)
    said = say("remove", "tiny")
    assert (said.code, said.out) == (2, "")
    assert "Nothing was removed: there is no terminal to ask at." in said.err
    assert "cyclegan pretrained remove tiny -y" in said.err
    said = say("remove", "tiny", "--dry-run")
    assert (said.code, said.out) == (0, f"{style.folder}\n")
    assert style.folder.is_dir()
    (runs_dir() / "tiny").mkdir(parents=True)
    said = say("remove", "tiny", "-y", "--json")
    assert said.records == [{"name": "tiny", "path": str(style.folder), "removed": True}]
    assert not style.folder.exists()
    assert (runs_dir() / "tiny").is_dir()  # never a run


def test_remove_is_all_or_nothing_for_bad_names(say, tmp_path: Path) -> None:
    style = a_style(tmp_path)
    assert say("remove", "tiny", "nothere", "-y").code == 2
    assert style.folder.is_dir()


def test_verify_names_the_bad_one_and_the_cure(say, tmp_path: Path) -> None:
    good, bad = a_style(tmp_path, "good"), a_style(tmp_path, "bad", origin="downloaded")
    assert say("verify").out == "bad\tok\ngood\tok\n"
    file = weights_file(bad, True)
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    said = say("verify")
    assert (said.code, said.out) == (1, "bad\tbad\ngood\tok\n")
    assert str(file) in said.err
    assert "cyclegan pretrained download bad --force" in said.err
    assert say("verify", "good").code == 0
    (good.folder / "style.json").write_text("{")
    said = say("verify", "--json")
    assert [(r["name"], r["ok"]) for r in said.records] == [("bad", False), ("good", False)]


def test_import_both_directions(say, tmp_path: Path) -> None:
    a, b = public_file(tmp_path), public_file(tmp_path, "latest_net_G_B.pth", 1)
    said = say("import", a, "--name", "horse2zebra", "--reverse-file", b, "--licence", "BSD")
    assert said.code == 0
    assert said.out == f"{styles_dir() / 'horse2zebra'}\n"
    assert "cyclegan translate img.jpg --style horse2zebra" in said.err
    style = find_style("horse2zebra")
    assert (style.x, style.y, style.origin) == ("horse", "zebra", "imported")
    assert style.card["licence"] == "BSD"
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        for seed in (0, 1):
            ours = load_generator(weights_file(style, bool(seed)))
            assert torch.equal(ours(x), public_generator(seed, blocks=6, ngf=4)(x))
    assert say("verify", "horse2zebra").code == 0


def test_import_one_direction_mentions_the_other(say, tmp_path: Path) -> None:
    a, b = public_file(tmp_path), public_file(tmp_path, "latest_net_G_B.pth", 1)
    said = say("import", a, "--name", "monet", "--x", "photo", "--y", "monet")
    assert said.code == 0
    assert f"--reverse-file {b}" in said.err
    assert find_style("monet").x == "photo"
    said = say("import", a, "--name", "monet")
    assert said.code == 2
    assert "already a style named 'monet'" in said.err
    assert say("import", a, "--name", "monet", "--overwrite", "-q").err == ""


def test_import_refuses_with_a_sentence(say, tmp_path: Path) -> None:
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"<html>404</html>")
    said = say("import", bad, "--name", "x")
    assert (said.code, said.out) == (1, "")
    assert f"{bad} is not a PyTorch file, but a web page (HTML)." in said.err
    assert say("import", tmp_path / "none.pth", "--name", "x").code == 2
    assert say("import", tmp_path, "--name", "x").code == 2
    assert say("import", public_file(tmp_path), "--name", "../x").code == 2
    assert list(styles_dir().glob("*")) == [] or list(styles_dir().iterdir()) == []


def test_export_and_import_are_inverse(say, tmp_path: Path) -> None:
    a = public_file(tmp_path)
    say("import", a, "--name", "s", "-q")
    for target in (tmp_path / "out.pth", tmp_path / "out.safetensors"):
        said = say("export", "s", target)
        assert (said.code, said.out) == (0, f"{target}\n")
        assert say("import", target, "--name", f"s-{target.suffix[1:]}", "-q").code == 0
        first, second = find_style("s"), find_style(f"s-{target.suffix[1:]}")
        assert first.directions["xy"].generator == second.directions["xy"].generator
        one, two = (load_generator(weights_file(s, False)).state_dict() for s in (first, second))
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_export_refuses_before_any_work(say, tmp_path: Path) -> None:
    a_style(tmp_path, both=False)
    target = tmp_path / "out.pth"
    target.write_bytes(b"mine")
    assert say("export", "tiny", target).code == 2
    assert target.read_bytes() == b"mine"
    assert say("export", "tiny", target, "--overwrite").code == 0
    assert target.read_bytes() != b"mine"
    assert say("export", "tiny", tmp_path / "out.h5").code == 2
    assert say("export", "tiny", tmp_path / "no" / "out.pth").code == 2
    said = say("export", "tiny", tmp_path / "back.pth", "--reverse")
    assert said.code == 2
    assert "no direction paint → photo" in said.err
    a_style(tmp_path, "mobile", both=False)
    from cyclegan_cli.styles.store import add_style
    from tests.styles.make import weights

    files = {"xy": weights(tmp_path, 9, TINY_MOBILE)}
    add_style("phone", x="x", y="y", origin="trained", weights=files, card={})
    said = say("export", "phone", tmp_path / "phone.pth")
    assert said.code == 2
    assert "mobile generator has no place" in said.err


def test_completion_offers_names(tmp_path: Path) -> None:
    a_style(tmp_path, "mon atelier")
    a_style(tmp_path, "other")
    assert "mon atelier" in complete_style("mo")
    assert "other" not in complete_style("mo")
    (styles_dir() / "other" / "style.json").write_text("{")
    assert "mon atelier" in complete_style("")


def test_the_shell_completes_without_torch(tmp_path: Path) -> None:
    a_style(tmp_path, "moquette")
    done = run(
        env={
            "_CYCLEGAN_COMPLETE": "complete_bash",
            "COMP_WORDS": "cyclegan pretrained show mo",
            "COMP_CWORD": "3",
            "PYTHONPROFILEIMPORTTIME": "1",
        }
    )
    assert "moquette" in done.stdout.decode().split()
    imported = done.stderr.decode()
    assert "cyclegan_cli.styles.store" in imported
    assert not any(f"| {name}\n" in imported.replace(" |   ", "| ") for name in ("torch", "numpy"))


@pytest.mark.parametrize("arguments", [["list"], ["show", "nothere"], ["path"], ["remove", "no"]])
def test_light_commands_import_no_torch(arguments: list[str], tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom cyclegan_cli.cli.app import main\n"
        "main(['pretrained', *sys.argv[1:]])\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'PIL', 'imageio')) * 7)\n"
    )
    assert run(*arguments, script=script).returncode == 0, sys.path


@pytest.mark.parametrize(
    "command", ["", "list", "show", "path", "download", "import", "export", "verify", "remove"]
)
def test_every_help_page_fits_80_columns_and_has_examples(say, command: str) -> None:
    said = say(*([command] if command else []), "--help")
    assert said.code == 0
    assert max(map(len, said.out.splitlines())) <= 80
    assert "Examples:" in said.out or not command
    assert "..." not in said.out.partition("Commands:")[2]  # no summary is cut off


# -- the sample ---------------------------------------------------------------------------------

KITTY = re.compile(rb"\x1b_G([^;]*);([^\x1b]*)\x1b\\")
ITERM2 = re.compile(rb"\x1b\]1337;File=inline=1:([^\a]*)\a")


def shown_on_terminal(*arguments: str, **variables: str) -> bytes:
    """What ``pretrained show monet`` writes to a terminal that names itself by ``variables``."""
    import pty

    own = ("TERM", "TERM_PROGRAM", "KITTY_WINDOW_ID", "TMUX")
    env = {key: value for key, value in environment().items() if key not in own}
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "cyclegan_cli", "pretrained", "show", "monet", *arguments]
    with subprocess.Popen(command, stdout=slave, stderr=slave, env={**env, **variables}) as program:
        os.close(slave)
        output = read_terminal(master)
    assert program.returncode == 0, output
    return output


@pytest.mark.skipif(os.name != "posix", reason="a pseudo-terminal is a Unix thing")
@pytest.mark.parametrize(
    "variables",
    [
        {"TERM": "xterm-kitty"},
        {"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"},
        {"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"},
        {"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"},
    ],
)
def test_show_draws_the_sample_where_the_terminal_shows_pictures(variables: dict[str, str]) -> None:
    output = shown_on_terminal(**variables)
    if commands := KITTY.findall(output):
        keys, parts = zip(*commands, strict=True)
        assert keys[0] == b"a=T,f=100,q=2,m=1"
        assert [key[-3:] for key in keys] == [b"m=1"] * (len(keys) - 1) + [b"m=0"]
        assert max(map(len, parts)) <= 4096
        data = b"".join(parts)
    else:
        assert "TERM_PROGRAM" in variables
        (data,) = ITERM2.findall(output)
    with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as drawn:
        assert (drawn.format, drawn.size) == ("PNG", (960, 320))
    assert b"sample.jpg" in output, "its file is named, too"


@pytest.mark.skipif(os.name != "posix", reason="a pseudo-terminal is a Unix thing")
@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        ((), {"TERM": "xterm-256color"}),
        ((), {"TERM": "dumb", "TERM_PROGRAM": "iTerm.app"}),
        ((), {"TERM": "tmux-256color", "TMUX": "/tmp/tmux", "KITTY_WINDOW_ID": "1"}),
        (("--json",), {"TERM": "xterm-kitty"}),
    ],
)
def test_show_only_names_the_sample_elsewhere(
    arguments: tuple[str, ...], variables: dict[str, str]
) -> None:
    output = shown_on_terminal(*arguments, **variables)
    assert b"\x1b_G" not in output
    assert b"\x1b]1337" not in output
    assert b"sample.jpg" in output


def test_the_sample_of_a_trained_style_is_that_of_its_run(say, tmp_path: Path) -> None:
    a_style(tmp_path)
    assert "\nsample\t" not in say("show", "tiny").out
    card = styles_dir() / "tiny" / "style.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "run": "tiny"}))
    samples = runs_dir() / "tiny" / "samples"
    samples.mkdir(parents=True)
    for step in (20, 3):
        (samples / f"step-{step:09}.png").write_bytes(b"")
    assert f"sample\t{samples / 'step-000000020.png'}\n" in say("show", "tiny").out
