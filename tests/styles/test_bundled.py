"""The styles that ship: whole, small, documented, and at work on a real picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclegan_cli.engine.weights import load_generator
from cyclegan_cli.settings import TrainSettings
from cyclegan_cli.styles.convert import verify_style
from cyclegan_cli.styles.store import find_style, list_styles, remove_style
from tests.painting.common import painter_of

pytestmark = pytest.mark.bundled
NAMES = ("monet", "vangogh")
DOCS = Path(__file__).parents[2] / "docs"


def photograph() -> np.ndarray:
    return np.asarray(Image.open(DOCS / "images" / "coffee.jpg").convert("RGB"))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_here_whole_and_small(name: str) -> None:
    style = find_style(name)
    assert style.origin == "bundled"
    assert style.ways == ("xy", "yx")
    assert verify_style(style) == []
    assert all(direction.size <= 4_000_000 for direction in style.directions.values())


def test_all_together_are_small() -> None:
    bundled = [style for style in list_styles() if style.origin == "bundled"]
    assert {style.name for style in bundled} == set(NAMES)
    assert sum(style.size for style in bundled) <= 16_000_000


@pytest.mark.parametrize("name", NAMES)
def test_its_card_says_how_it_came_to_be(name: str) -> None:
    card = find_style(name).card
    assert card["licence"]
    assert "CC BY" in card["photographs"]  # two photographers want to be named
    assert card["steps"] >= 500
    settings = TrainSettings.from_json(card["settings"])
    assert settings.generator.name == "scene"
    assert settings.lambda_cycle > 0
    assert (DOCS / "styles" / f"{name}.md").is_file()
    assert (DOCS / "styles" / f"{name}.toml").is_file()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", ["xy", "yx"])
def test_it_changes_a_photograph_and_leaves_the_scene(name: str, way: str) -> None:
    network = load_generator(find_style(name).directions[way].file)
    photo = photograph()
    painted = painter_of(network).paint(photo)
    change = np.abs(painted.astype(float) - photo).mean()
    assert 4 < change < 70
    light = [p.reshape(50, 8, 75, 8, 3).mean((1, 3, 4)).ravel() for p in (photo, painted)]
    assert np.corrcoef(*light)[0, 1] > 0.8


def test_it_stays() -> None:
    with pytest.raises(Exception, match="came with the program"):
        remove_style("monet")
