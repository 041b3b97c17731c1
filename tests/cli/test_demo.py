"""cyclegan demo: the whole workflow, shorter."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from cyclegan_cli.cli.app import main


def test_the_demo_trains_translates_and_shows_its_commands(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "try it"
    assert main(["demo", str(folder), "--steps", "2"]) == 0
    output = capsys.readouterr()
    assert f"$ cyclegan train '{folder}/photos'" in output.err
    assert f"$ cyclegan translate '{folder}/photo.png'" in output.err
    with Image.open(folder / "photo.png") as photo, Image.open(folder / "painted.png") as painted:
        assert painted.size == photo.size
        assert painted.tobytes() != photo.tobytes()
    assert not home.exists(), "the demo keeps to its folder"
    assert main(["demo", str(folder)]) == 2
    assert "exists already" in capsys.readouterr().err
