"""report.html: what it says, that it needs nothing else, and how it behaves in a browser."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cyclegan_cli.engine.run import Run
from cyclegan_cli.report import page as page_module
from cyclegan_cli.report.page import Report
from tests.report.browser import Page, browser, find_browser
from tests.report.run_folder import (
    evaluation,
    losses,
    make_run,
    warning,
    whole_run,
    write_lines,
    write_sheet,
)

VOID = {"meta", "link", "img", "input", "br"}


class Reader(HTMLParser):
    """Every element with its attributes; raises where one is closed that is not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] not in ("script", "style"):
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return whole_run(tmp_path / "run")


def test_the_page_tells_the_run(run: Run) -> None:
    text = Reader(Report(run).html()).text
    for words in (
        "cats2dogs",
        "Step 30 of 40",
        "Epoch 3 of 4 done",
        "not finished",
        "Best epoch 2 (step 20, SWD 65)",
        "Step 20: D_Y's loss has been near 0. Lower --lr.",
        "cats: 10 pictures, and 2 held out",
        "dogs: 7 pictures, and 1 held out",
        "60 (40)",
        "cyclegan train /pictures/cats /pictures/dogs --name cats2dogs --generator mobile",
        "cyclegan resume cats2dogs",
        "Sliced Wasserstein distance",
        "Discriminators: loss",
        "cannot tell real from made 0.25",
    ):
        assert words in text


def test_a_training_that_max_steps_ended_is_not_said_to_have_the_epochs_left(run: Run) -> None:
    ended = dataclasses.replace(run, settings=dataclasses.replace(run.settings, max_steps=30))
    text = Reader(Report(ended).html()).text
    assert "the training has ended at --max-steps 30" in text
    assert "Step 30 of 30" in text
    assert "Epoch 3 done the learning rate is set for 4" in text
    assert "finished" not in text
    assert "of 4" not in text.partition("Samples")[0]
    whole = dataclasses.replace(run, settings=dataclasses.replace(run.settings, epochs=3))
    assert "the training is finished" in Reader(Report(whole).html()).text


def test_figures_whose_heading_does_not_say_it_have_a_caption(run: Run) -> None:
    facts = Report(run).html().partition('<dl class="facts">')[2].partition("</dl>")[0]
    captions = {
        re.search("<dt>(.*?)</dt>", fact)[1]: fact.count("<dd>")  # type: ignore[index]
        for fact in facts.split("</div>")[:-1]
    }
    assert {name for name, count in captions.items() if count == 1} == {"Step", "Epoch"}
    assert {"Speed", "Trained for", "Updated", "Best epoch"} <= captions.keys()


def test_the_page_needs_nothing_but_itself(run: Run) -> None:
    reader = Reader(html := Report(run).html())
    for tag, attributes in reader.elements:
        for name in ("src", "href", "srcset", "data", "action"):
            found = attributes.get(name)
            assert found is None or found.startswith("data:"), (tag, found)
        assert "style" not in attributes, "the policy allows only the style sheet"
        assert not [name for name in attributes if name.startswith("on")]
    policy = next(m["content"] for m in reader.all("meta") if m.get("http-equiv"))
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        inline = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert len(inline) == 1
        digest = base64.b64encode(hashlib.sha256(inline[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_every_picture_and_control_has_words(run: Run) -> None:
    reader = Reader(Report(run).html())
    pictures = reader.all("img")
    assert len(pictures) == 2 * 3 + 1 * 3
    alts = [picture["alt"] for picture in pictures]
    assert len(set(alts)) == len(alts)
    assert "Picture 2 of cats as dogs, step 30, epoch 3.0" in alts
    slider = reader.all("input")[0]
    assert (slider["type"], slider["min"], slider["max"]) == ("range", "0", "2")
    assert slider["aria-valuetext"] == "step 30, epoch 3.0"
    assert reader.all("output")[0]["aria-live"] == "polite"
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for _, attributes in reader.elements:
        for name in str(attributes.get("aria-labelledby") or "").split():
            assert name in ids
    assert reader.all("html")[0]["lang"] == "en"
    levels = [int(tag[1]) for tag, _ in reader.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_the_same_folder_gives_the_same_page(run: Run) -> None:
    Report(run).write()
    first = (run.folder / "report.html").read_bytes()
    kept = Report(run)
    kept.html()
    write_sheet(run, 40)
    grown = kept.html()
    assert grown == Report(run).html(), "what was kept from before changes nothing"
    (run.folder / "samples" / "step-000000040.png").unlink()
    assert Report(run).html().encode() == first


EVIL = "</script><img src=x onerror=alert(1)>&\"'"


def test_what_others_wrote_stays_text(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", name=EVIL, x_dir=Path(EVIL, "a<b"), y_dir=Path("c&d"))
    write_lines(run, losses(1), warning(1, EVIL, EVIL))
    for step in (1, 2):
        write_sheet(run, step)
    reader = Reader(html := Report(run).html())
    assert EVIL in reader.text
    assert len(reader.all("script")) == 2
    assert {attributes["src"][:5] for attributes in reader.all("img") if attributes["src"]} == {
        "data:"
    }
    data = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', html, re.DOTALL)
    assert data is not None
    assert [moment["label"] for moment in json.loads(data[1])] == [
        "step 1, epoch 0.1",
        "step 2, epoch 0.2",
    ]


def test_a_run_without_anything_yet_and_one_with_odd_lines_have_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    text = Reader(Report(run).html()).text
    assert "There are none yet." in text
    assert "There is no measure yet." in text
    odd = {**losses(3), "G": None, "lr": "x"}
    write_lines(run, odd, evaluation(3, float("nan"), 1.0), {**losses(4), "evaluation": 3})
    assert "Step 4 of 40" in Reader(Report(run).html()).text


# -- contrast (WCAG 2.1, 1.4.3: 4.5 for text, 3 for lines) ---------------------------------------


def _luminance(colour: str) -> float:
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a: str, b: str) -> float:
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_and_lines_stand_out(scheme: int) -> None:
    style = Path(page_module.__file__).with_name("page.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[scheme]))
    for back in ("back", "card", "warn"):
        assert _contrast(colours["text"], colours[back]) >= 4.5
    for back in ("back", "card"):
        assert _contrast(colours["soft"], colours[back]) >= 4.5
    for line in ("one", "two", "accent"):
        assert _contrast(colours[line], colours["card"]) >= 3


# -- in a browser --------------------------------------------------------------------------------

PROGRAM = find_browser()
in_browser = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium here")


@pytest.fixture
def opened(run: Run, tmp_path: Path) -> Iterator[Page]:
    report = Report(run)
    report.write()
    assert PROGRAM is not None
    with browser(PROGRAM, tmp_path / "profile") as page:
        page.size(390, 844, phone=True)
        page.open(report.path)
        yield page


SHOWN = "[...document.querySelectorAll('img')].map((i) => i.src)"


@in_browser
def test_the_slider_moves_the_pictures_and_nothing_is_asked_for(opened: Page, run: Run) -> None:
    newest = opened.run(SHOWN)
    opened.run("document.getElementById('slider').focus()")
    opened.press("ArrowLeft", 37)
    before = opened.run(SHOWN)
    assert opened.run("document.getElementById('told').value") == "step 20, epoch 2.0"
    assert opened.run("document.getElementById('slider').getAttribute('aria-valuetext')") == (
        "step 20, epoch 2.0"
    )
    still = [k for k, (a, b) in enumerate(zip(newest, before, strict=True)) if a == b]
    assert still == [0, 3, 6], "x and y stay; what the generators made moves"
    assert "step 20" in opened.run("document.querySelectorAll('img')[1].alt")
    opened.press("End", 35)
    assert opened.run(SHOWN) == newest
    opened.run("document.getElementById('play').click()")
    assert opened.run("document.getElementById('told').value") == "step 10, epoch 1.0"
    assert opened.run("document.getElementById('play').textContent") == "Pause"
    opened.run("document.getElementById('play').click()")
    sizes = (
        "[...document.querySelectorAll('img')].map((i) => i.decode().then(() => i.naturalWidth))"
    )
    assert opened.run(f"Promise.all({sizes})") == [32] * 9
    assert opened.requests == [(run.folder / "report.html").as_uri()]
    assert opened.complaints == []


@in_browser
def test_it_fits_a_phone_and_a_desk_in_light_and_dark(opened: Page) -> None:
    backs = set()
    for width in (320, 390, 1280):
        opened.size(width, 844, phone=width < 500)
        for scheme in ("light", "dark"):
            opened.scheme(scheme)
            assert opened.run("document.documentElement.scrollWidth") <= width
            backs.add(opened.run("getComputedStyle(document.body).backgroundColor"))
            shown = "document.getElementById('controls').getBoundingClientRect().height"
            assert opened.run(shown) > 0
    assert len(backs) == 2
    assert opened.complaints == []


@in_browser
def test_the_pages_own_policy_stops_what_others_might_bring_in(opened: Page) -> None:
    opened.run(
        "document.body.insertAdjacentHTML('beforeend',"
        ' \'<img src="http://127.0.0.1:9/a.png" onerror="document.title = 1">\')'
    )
    opened.run("new Promise((done) => setTimeout(done, 200))")
    assert opened.run("document.title") == "cats2dogs: training report"
    assert opened.refused == ["csp"]
    assert opened.complaints, "the browser says that it refused"
