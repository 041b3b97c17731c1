"""What the shell offers after TAB: names of runs and styles, and the values of every choice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cyclegan_cli.settings import GENERATORS
from tests.program import run
from tests.report.run_folder import whole_run
from tests.styles.make import a_style

# The command line so far -> what is offered, at least; the last word is being typed.
OFFERED = {
    "translate a.jpg --style m": {"monet", "mine"},
    "translate a.jpg -s mi": {"mine"},
    "preview a.jpg --style monet,v": {"monet,vangogh"},
    "train x y --init va": {"vangogh"},
    "evaluate mi": {"mine"},
    "pretrained show mi": {"mine"},
    "pretrained path mi": {"mine"},
    "pretrained export mi": {"mine"},
    "pretrained verify monet mi": {"mine"},
    "pretrained remove mi": {"mine"},
    "pretrained download cez": {"cezanne"},
    "resume ": {"cats2dogs"},
    "report c": {"cats2dogs"},
    "timelapse c": {"cats2dogs"},
    "runs show c": {"cats2dogs"},
    "runs open c": {"cats2dogs"},
    "runs remove c": {"cats2dogs"},
    "pretrained import --run c": {"cats2dogs"},
    "resume cats2dogs --checkpoint ": {"best"},
    "pretrained import --run cats2dogs --checkpoint ": {"best", "last"},
    "train x y --gan ": {"lsgan", "vanilla", "hinge"},
    "train x y --generator ": set(GENERATORS),
    "train x y --discriminator ": {"patchgan", "twoscale", "projected"},
    "train x y --precision ": {"auto", "fp32", "bf16", "fp16"},
    "train x y --resize ": {"keep", "distort"},
    "train x y --publish ": {"last", "best"},
    "train x y --evaluate-every n": {"never"},
    "translate a.jpg --precision b": {"bf16"},
    "translate a.jpg --resolution ": {"auto", "native"},
    "translate a.jpg --format w": {"webp"},
    **{f"{command} --gpu c": {"cpu", "cuda"} for command in ("train x y", "resume cats2dogs")},
    **{f"{command} --gpu m": {"mps"} for command in ("translate a.jpg", "evaluate monet x y")},
    "datasets show horse": {"horse2zebra"},
    "docs gui": {"guide"},
    "trans": {"translate"},
}
ASK = """
import contextlib, io, json, os, sys
from cyclegan_cli.cli.app import main
found = {}
for line in json.loads(sys.argv[1]):
    os.environ.update(_CYCLEGAN_COMPLETE="complete_bash", COMP_WORDS=f"cyclegan {line}")
    os.environ["COMP_CWORD"] = str(len(line.split(" ")))
    with contextlib.redirect_stdout(io.StringIO()) as out:
        main([])
    found[line] = out.getvalue().split()
print(json.dumps([found, [m for m in ("torch", "numpy", "PIL") if m in sys.modules]]))
"""


@pytest.mark.bundled
def test_names_and_choices_are_offered_without_torch_or_numpy(tmp_path: Path, home: Path) -> None:
    a_style(tmp_path / "weights", "mine")
    whole_run(home / "runs" / "cats2dogs")
    script = tmp_path / "ask.py"
    script.write_text(ASK)
    done = run(json.dumps(list(OFFERED)), script=script)
    assert done.returncode == 0, done.stderr.decode()
    found, heavy = json.loads(done.stdout)
    for line, offered in OFFERED.items():
        typed = line.split(" ")[-1]
        assert offered <= set(found[line]), line
        assert all(word.startswith(typed) for word in found[line]), line
    assert heavy == []


def test_a_home_that_cannot_be_read_offers_nothing_and_says_nothing(
    tmp_path: Path, home: Path
) -> None:
    home.write_text("no folder")
    script = tmp_path / "ask.py"
    script.write_text(ASK)
    lines = ["resume ", "pretrained remove no"]
    done = run(json.dumps(lines), script=script)
    assert json.loads(done.stdout)[0] == {line: [] for line in lines}
    assert done.stderr == b""
