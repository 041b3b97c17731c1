"""Styles on the disk: whole or not at all, found by name, safe under concurrent use."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyclegan_cli.engine.weights import load_generator
from cyclegan_cli.errors import (
    CycleganError,
    StoreError,
    UnknownNameError,
    UsageError,
    WeightsError,
)
from cyclegan_cli.files import digest_of, runs_dir, styles_dir
from cyclegan_cli.settings import GeneratorSpec
from cyclegan_cli.styles import store
from cyclegan_cli.styles.catalogue import read_style
from cyclegan_cli.styles.convert import verify_style
from cyclegan_cli.styles.store import (
    add_style,
    damaged_styles,
    find_style,
    list_styles,
    remove_style,
    root_of,
    weights_file,
)
from tests.program import environment
from tests.styles.make import TINY, TINY_MOBILE, a_style, weights


def test_a_style_is_what_was_given(tmp_path: Path) -> None:
    source = weights(tmp_path, 1)
    style = add_style(
        "photo2paint",
        **{"x": "photo", "y": "paint", "origin": "trained"},
        weights={"xy": source},
        card={"licence": "CC0-1.0", "training": {"epochs": 3}},
    )
    folder = styles_dir() / "photo2paint"
    assert sorted(f.name for f in folder.iterdir()) == ["style.json", "xy.safetensors"]
    assert (folder / "xy.safetensors").read_bytes() == source.read_bytes()
    found = find_style("photo2paint")
    assert found == style
    assert (found.name, found.x, found.y, found.origin) == (
        "photo2paint",
        "photo",
        "paint",
        "trained",
    )
    assert found.card["licence"] == "CC0-1.0"
    assert found.card["training"] == {"epochs": 3}
    assert found.card["created"].endswith("Z")
    direction = found.directions["xy"]
    assert (direction.sha256, direction.size) == digest_of(source)
    assert direction.generator == TINY
    assert list_styles(available=False) == [style]
    assert load_generator(weights_file(style, False)).spec == TINY


def test_a_missing_direction_says_which_is_there(tmp_path: Path) -> None:
    style = a_style(tmp_path, both=False)
    with pytest.raises(
        UsageError, match=r"no direction paint → photo: only photo → paint"
    ) as caught:
        weights_file(style, reverse=True)
    assert "Leave out --reverse" in str(caught.value.hint)
    only_back = a_style(tmp_path, "back", both=False)
    shutil.move(only_back.folder / "xy.safetensors", only_back.folder / "yx.safetensors")
    card = json.loads((only_back.folder / "style.json").read_text())
    card["directions"] = {"yx": {**card["directions"]["xy"], "file": "yx.safetensors"}}
    (only_back.folder / "style.json").write_text(json.dumps(card))
    with pytest.raises(UsageError, match="only paint → photo") as caught:
        weights_file(find_style("back"), reverse=False)
    assert "Add --reverse" in str(caught.value.hint)


def test_a_lost_file_is_said(tmp_path: Path) -> None:
    style = a_style(tmp_path)
    weights_file(style, True).unlink()
    with pytest.raises(StoreError, match="has lost a file"):
        weights_file(style, True)


def test_unknown_names_get_a_did_you_mean(tmp_path: Path) -> None:
    a_style(tmp_path, "vangogh")
    with pytest.raises(UnknownNameError, match="Did you mean vangogh") as caught:
        find_style("vangohg")
    assert caught.value.hint == "cyclegan pretrained list"
    with pytest.raises(UnknownNameError):
        remove_style("vangohg")


def test_own_before_bundled_before_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_BUNDLED", tmp_path / "package")
    a_style(tmp_path, "monet", x="own")
    shutil.move(styles_dir() / "monet", tmp_path / "package" / "monet")
    a_style(tmp_path, "monet", origin="downloaded", x="far")
    found = find_style("monet")
    assert (found.origin, found.x, found.hides) == ("bundled", "own", ("downloaded",))
    with pytest.raises(UsageError, match="came with the program"):
        remove_style("monet")
    a_style(tmp_path, "monet", x="mine")
    found = find_style("monet")
    assert (found.origin, found.x) == ("trained", "mine")
    assert found.hides == ("bundled", "downloaded")
    assert list_styles(available=False) == [found]
    assert remove_style("monet") == styles_dir() / "monet"
    assert find_style("monet").origin == "bundled"


def test_paths_stand_for_styles_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    style = a_style(tmp_path, "monet")
    copy = tmp_path / "elsewhere" / "copy"
    shutil.copytree(style.folder, copy)
    found = find_style(str(copy))
    assert (found.name, found.folder, set(found.directions)) == ("monet", copy, {"xy", "yx"})
    one = find_style(str(weights(tmp_path, 7)))
    assert (one.name, set(one.directions)) == ("weights-7", {"xy"})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "monet").mkdir()  # a folder of pictures, say
    assert find_style("monet") == style
    with pytest.raises(UsageError):
        find_style("./monet")
    (tmp_path / "latest_net_G.pth").write_bytes(b"PK")
    with pytest.raises(WeightsError) as caught:
        find_style("latest_net_G.pth")
    assert "pretrained import latest_net_G.pth" in str(caught.value.hint)


def test_a_strangers_style_names_no_file_outside(tmp_path: Path) -> None:
    copy = tmp_path / "gift"
    shutil.copytree(a_style(tmp_path, "monet").folder, copy)
    card = json.loads((copy / "style.json").read_text())
    card["name"] = "../../evil\x1b[31m"
    (copy / "style.json").write_text(json.dumps(card))
    assert find_style(str(copy)).name == "gift"
    card["directions"]["xy"]["file"] = "../../secret.safetensors"
    (copy / "style.json").write_text(json.dumps(card))
    with pytest.raises(StoreError, match="damaged"):
        find_style(str(copy))


@pytest.mark.parametrize(
    "name",
    ["", "..", "a/b", "a\\b", "../x", "/etc", ".hidden", "con", "x ", "a\nb", "a" * 101, "a\0"],
)
def test_impossible_names_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        a_style(tmp_path, name)
    with pytest.raises(CycleganError):
        remove_style(name)
    assert not styles_dir().exists() or list(styles_dir().iterdir()) == []


@pytest.mark.parametrize("name", ["mein Stil", "моне", "モネ", "été-2", "a.b+c", "9"])
def test_names_with_spaces_and_of_all_alphabets(name: str, tmp_path: Path) -> None:
    a_style(tmp_path, name)
    assert find_style(name).name == name
    assert [style.name for style in list_styles(available=False)] == [name]
    assert remove_style(name).name == name


def test_one_name_in_two_unicode_spellings_is_one_style(tmp_path: Path) -> None:
    a_style(tmp_path, "e\u0301te\u0301")
    assert find_style("été").name == "été"
    with pytest.raises(UsageError, match="already a style"):
        a_style(tmp_path, "été")


def test_a_taken_name_is_refused_unless_replaced(tmp_path: Path) -> None:
    first = a_style(tmp_path, both=True)
    with pytest.raises(UsageError, match="already a style"):
        a_style(tmp_path, x="other")
    assert find_style("tiny") == first
    second = a_style(tmp_path, both=False, x="other", replace=True)
    assert find_style("tiny") == second
    assert sorted(f.name for f in second.folder.iterdir()) == ["style.json", "xy.safetensors"]
    assert [f.name for f in styles_dir().iterdir() if f.name != ".lock"] == ["tiny"]


@pytest.mark.parametrize("content", [b"", b"not weights", b"\x10\0\0\0\0\0\0\0{}              "])
def test_what_is_not_a_generator_leaves_nothing_behind(content: bytes, tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(content)
    for path in (bad, tmp_path / "none.safetensors"):
        with pytest.raises(WeightsError):
            add_style("s", x="x", y="y", origin="imported", weights={"xy": path}, card={})
    assert [f.name for f in styles_dir().iterdir() if f.name != ".lock"] == []


# -- damage ----------------------------------------------------------------------------------


def test_verify_finds_every_damage(tmp_path: Path) -> None:
    style = a_style(tmp_path)
    assert verify_style(style) == []
    file = weights_file(style, False)
    good = file.read_bytes()
    file.write_bytes(good[:-4] + b"\0\0\0\0")
    assert ["SHA-256" in problem for problem in verify_style(style)] == [True]
    file.write_bytes(good[:-4])
    assert "bytes" in verify_style(style)[0]
    file.unlink()
    assert "No such file" in verify_style(style)[0]
    assert verify_style(style)[0].startswith(str(file))


def test_verify_tries_the_generator(tmp_path: Path) -> None:
    from cyclegan_cli.engine.weights import save_generator
    from tests.styles.make import tiny_generator

    network = tiny_generator()
    for parameter in network.parameters():
        parameter.data.zero_()
    save_generator(tmp_path / "zero.safetensors", network)
    files = {"xy": tmp_path / "zero.safetensors"}
    style = add_style("zero", x="x", y="y", origin="trained", weights=files, card={})
    assert "single colour" in verify_style(style)[0]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", "null", '{"format": "cyclegan-style-9"}', "[" * 100_000, '{"a": 1e999}'],
)
def test_a_damaged_card_hides_no_other_style(text: str, tmp_path: Path) -> None:
    good = a_style(tmp_path, "good")
    bad = a_style(tmp_path, "bad")
    (bad.folder / "style.json").write_text(text)
    assert list_styles(available=False) == [good]
    assert [folder.name for folder, _ in damaged_styles()] == ["bad"]
    with pytest.raises(StoreError, match="damaged") as caught:
        find_style("bad")
    assert caught.value.hint == "cyclegan pretrained remove bad"
    remove_style("bad")
    assert not bad.folder.exists()


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_any_card_is_a_style_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("card")
    entry = {"file": "xy.safetensors", "sha256": "0", "size": 1, "generator": TINY.to_json()}
    card = {
        **{"format": "cyclegan-style-1", "name": "n", "x": "x", "y": "y", "origin": "trained"},
        "directions": {"xy": entry},
    }
    target = data.draw(st.sampled_from([card, entry, entry["generator"]]))
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(_json)
    (folder / "style.json").write_text(json.dumps(card))
    try:
        style = read_style(folder, None, name="n")
    except StoreError:
        return
    assert isinstance(style.directions["xy"].generator, GeneratorSpec)
    assert style.x.isprintable()


# -- places that cannot be written, and writes that are cut off ---------------------------------


def test_the_name_of_a_run_that_has_not_ended_is_told_how_to_get_a_style(tmp_path: Path) -> None:
    (runs_dir() / "half way").mkdir(parents=True)
    with pytest.raises(UsageError, match="The run 'half way' has made no style yet") as caught:
        find_style("half way")
    assert "cyclegan resume 'half way'" in str(caught.value.hint)
    assert "cyclegan pretrained import --run 'half way'" in str(caught.value.hint)


def test_a_home_that_does_not_exist_has_no_styles(tmp_path: Path) -> None:
    assert list_styles(available=False) == []
    assert not (tmp_path / "home").exists()
    with pytest.raises(UnknownNameError):
        find_style("mine")
    assert not (tmp_path / "home").exists()


def test_a_home_that_is_a_file_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CYCLEGAN_HOME", str(tmp_path / "file"))
    assert list_styles(available=False) == []
    with pytest.raises(StoreError, match="cannot be written") as caught:
        a_style(tmp_path)
    assert "CYCLEGAN_HOME" in str(caught.value.hint)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(StoreError, match="No space left"):
        a_style(tmp_path)
    assert [path.name for path in styles_dir().iterdir()] == []


def test_a_read_only_home_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    style = a_style(tmp_path)
    (styles_dir() / ".tiny.abc.swap").mkdir()  # what an interrupted replacement left

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(styles_dir()))

    make = Path.mkdir

    def mkdir(path: Path, *arguments: Any, **options: Any) -> None:
        if path.is_relative_to(styles_dir()):
            denied()
        make(path, *arguments, **options)

    # The tests may run as root, whom no mode stops: so the system calls are made to refuse.
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(os, "mkdir", denied)
    monkeypatch.setattr(Path, "mkdir", mkdir)  # Python 3.10's keeps an os.mkdir of its own
    monkeypatch.setattr(os, "rename", denied)
    assert find_style("tiny") == style
    assert list_styles(available=False) == [style]
    assert verify_style(style) == []
    files = {"xy": style.directions["xy"].file}
    with pytest.raises(StoreError, match="cannot be written"):
        add_style("other", x="x", y="y", origin="trained", weights=files, card={})
    with pytest.raises(StoreError, match="cannot be written"):
        remove_style("tiny")
    assert find_style("tiny") == style


def test_a_kill_anywhere_leaves_the_old_style_or_the_new(tmp_path: Path) -> None:
    """The process dies at its k-th touch of the store, for every k."""
    old = a_style(tmp_path, x="old")
    seen = set()
    for k in range(1, 60, 1):
        process = multiprocessing.get_context("fork").Process(
            target=_die_at, args=(k, tmp_path / "w")
        )
        process.start()
        process.join()
        style = find_style("tiny")  # never missing, never half
        assert verify_style(style) == []
        assert style.x in ("old", "new")
        seen.add((style.x, process.exitcode))
        if process.exitcode == 0:
            break
        if style.x == "new":
            a_style(tmp_path, x="old", replace=True)
    assert process.exitcode == 0, "the loop must reach the end of the work"
    assert {("old", 9), ("new", 9), ("new", 0)} <= seen
    a_style(tmp_path, x="last", replace=True)
    left = [f.name for f in styles_dir().iterdir() if not f.name.endswith(".tmp")]
    assert sorted(left) == [".lock", "tiny"]
    assert old.folder.is_dir()


def _die_at(k: int, folder: Path) -> None:
    calls = 0
    home = os.environ["CYCLEGAN_HOME"]
    file = weights(folder, 5)

    def dying(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal calls
        touched = event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")
        if touched and any(home in str(argument) for argument in arguments):
            calls += 1
            if calls == k:
                os._exit(9)

    sys.addaudithook(dying)
    options = {"x": "new", "y": "y", "origin": "trained", "card": {}, "replace": True}
    add_style("tiny", weights={"xy": file}, **options)
    os._exit(0)


def test_what_a_killed_process_left_is_swept_whoever_named_it(tmp_path: Path) -> None:
    a_style(tmp_path, "one")
    for name in (".old.0123456789ab.tmp", ".tmpAb3dE9", "tmpab_12xyz"):
        (styles_dir() / name).mkdir()
    (styles_dir() / ".one.v2.0123456789ab.tmp").mkdir()
    kept = styles_dir() / ".mine.tmp"
    kept.mkdir()
    a_style(tmp_path, "two")
    left = {path.name for path in styles_dir().iterdir()}
    assert left == {"one", "two", ".lock", kept.name}


# -- many at once ------------------------------------------------------------------------------


def _trainer(folder: Path, seed: int, done: Event) -> None:
    specs = {1: TINY, 2: TINY_MOBILE}
    file = weights(folder, seed, specs[seed])
    while not done.is_set():
        options = {"x": f"x{seed}", "y": "y", "origin": "trained", "card": {"seed": seed}}
        add_style("shared", weights={"xy": file, "yx": file}, replace=True, **options)
    os._exit(0)


def _translator(wanted: int) -> None:
    looks = 0
    while looks < wanted:
        try:
            style = find_style("shared")
            network = load_generator(weights_file(style, bool(looks % 2)))
        except (UnknownNameError, FileNotFoundError):
            continue  # the remover was here
        except StoreError as error:
            if "lost a file" not in str(error):
                raise
            continue
        assert network.spec in (TINY, TINY_MOBILE)
        assert set(style.directions) == {"xy", "yx"}
        looks += 1
    os._exit(0)


def _remover(done: Event) -> None:
    while not done.is_set():
        time.sleep(random.random() * 0.02)
        try:
            remove_style("shared")
        except UnknownNameError:
            continue
    os._exit(0)


def test_two_trainers_three_translators_and_a_remover(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    done = fork.Event()
    translators = [fork.Process(target=_translator, args=(20,), daemon=True) for _ in range(3)]
    processes = [
        *translators,
        *(fork.Process(target=_trainer, args=(tmp_path / f"t{n}", n, done)) for n in (1, 2)),
        fork.Process(target=_remover, args=(done,)),
    ]
    for process in processes:
        process.start()
    for process in translators:
        process.join(60)
    done.set()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 6
    a_style(tmp_path, "shared", replace=True)
    assert verify_style(find_style("shared")) == []
    assert sorted(f.name for f in styles_dir().iterdir()) == [".lock", "shared"]


def test_a_style_that_is_only_replaced_is_never_missing(tmp_path: Path) -> None:
    a_style(tmp_path, "shared")
    fork = multiprocessing.get_context("fork")
    done = fork.Event()
    trainer = fork.Process(target=_trainer, args=(tmp_path / "t", 1, done))
    trainer.start()
    for _ in range(500):
        assert find_style("shared").name == "shared"
        assert [style.name for style in list_styles(available=False)] == ["shared"]
    done.set()
    trainer.join(60)
    assert trainer.exitcode == 0


def test_the_store_needs_no_torch() -> None:
    code = (
        "import sys, cyclegan_cli.styles.store as s, cyclegan_cli.cli.options as c\n"
        "s.list_styles(); c.complete_style('mo')\n"
        "print([m for m in ('torch', 'numpy', 'PIL', 'imageio', 'filelock') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment(), check=True
    )
    assert done.stdout.strip() == b"[]"
    assert root_of("trained") == styles_dir()


def test_a_style_that_sees_the_scene_is_verified(tmp_path: Path) -> None:
    from dataclasses import replace

    from cyclegan_cli.engine.networks import Generator
    from cyclegan_cli.engine.weights import save_generator
    from cyclegan_cli.settings import GENERATORS
    from cyclegan_cli.styles.convert import check_generator

    network = Generator(replace(GENERATORS["scene"], width=4, blocks=1))
    save_generator(tmp_path / "xy.safetensors", network, {})
    check_generator(tmp_path / "xy.safetensors")
