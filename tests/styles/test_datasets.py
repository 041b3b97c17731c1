"""Data sets from a real server on loopback, and archives that mean harm."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cyclegan_cli.cli.app import main
from cyclegan_cli.errors import DownloadError, StoreError, UnknownNameError, UsageError
from cyclegan_cli.files import cache_dir, home_dir
from cyclegan_cli.styles import datasets as module
from cyclegan_cli.styles.catalogue import record_digest
from cyclegan_cli.styles.datasets import (
    FOLDERS,
    Here,
    datasets,
    download_dataset,
    here,
    unpack,
    what_is_wrong,
)
from cyclegan_cli.styles.fetch import Learned, Patience, part_file
from tests.styles.server import Server, cut, running, send, status

SOON = Patience(timeout=0.7, attempts=4, first_wait=0.01, slowest=2000, window=0.3)


def picture(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((40, 40), 20 + level).convert("RGB").save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def archive(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in entries.items():
            file.writestr(name, data)
    return buffer.getvalue()


GOOD = {
    **{f"tiny/{part}/{n}.jpg": picture(n) for part in ("trainA", "trainB") for n in range(3)},
    "tiny/testA/7.jpg": picture(7),
    "tiny/trainA/2005-06-26 14:04:52.jpg": picture(9),
    "tiny/trainA/": b"",
    "tiny/trainA/.hidden.jpg": b"-",
    "tiny/trainA/Thumbs.db": b"-",
    "tiny/README.txt": b"-",
    "__MACOSX/trainA/0.jpg": b"-",
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with running(Server(files={"/tiny.zip": archive(GOOD)})) as rules:
        known(rules)
        yield rules


def known(server: Server, **extra: object) -> None:
    """A table of the user's with the data set 'tiny' on this server."""
    row = {"x": "a", "y": "b", "addresses": [f"{server.base}/{{file}}"], "licence": "CC0", **extra}
    text = "[datasets.tiny]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in row.items())
    home_dir().mkdir(parents=True, exist_ok=True)
    (home_dir() / "datasets.toml").write_text(text)


def fetch_tiny(to: Path | None = None) -> tuple[Here, list[object]]:
    events: list[object] = []
    return download_dataset("tiny", to, tell=events.append, patience=SOON), events


def pictures(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "dataset.json"
    }


def assert_nothing_landed() -> None:
    folder = cache_dir() / "datasets"
    assert not folder.exists() or list(folder.iterdir()) == []
    assert here("tiny") is None


def test_the_table_names_the_public_sets() -> None:
    found = datasets()
    assert set(found) == {
        *("apple2orange", "summer2winter_yosemite", "horse2zebra", "monet2photo", "maps"),
        *("cezanne2photo", "ukiyoe2photo", "vangogh2photo", "facades", "iphone2dslr_flower"),
        "ae_photos",
    }
    base = "efrosgans.eecs.berkeley.edu/cyclegan/datasets/horse2zebra.zip"
    assert found["horse2zebra"].addresses == (f"https://{base}", f"http://{base}")


def test_a_data_set_comes_whole_and_is_not_fetched_twice(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, events = fetch_tiny()
    assert done.folder == cache_dir() / "datasets" / "tiny"
    assert done.counts == {"trainA": 4, "trainB": 3, "testA": 1}
    expected = {
        name.removeprefix("tiny/").replace(":", "_"): data
        for name, data in GOOD.items()
        if len(data) > 1
    }
    assert pictures(done.folder) == expected
    assert any(isinstance(event, Learned) for event in events)
    assert [f.name for f in (cache_dir() / "downloads").iterdir() if f.suffix != ".lock"] == []
    monkeypatch.setenv("CYCLEGAN_OFFLINE", "1")
    again, events = fetch_tiny()
    assert (again.fetched, again.counts, events) == (False, done.counts, [])
    assert server.paths() == ["/tiny.zip"]


def test_two_commands_make_a_run(
    server: Server, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["datasets", "download", "tiny", "--to", str(tmp_path / "my data")]) == 0
    output = capsys.readouterr()
    folder = tmp_path / "my data" / "tiny"
    assert output.out == f"{folder}\n"
    line = output.err.splitlines()[-1].strip()
    assert line == f"cyclegan train '{folder}/trainA' '{folder}/trainB' --name tiny"
    arguments = [part.strip("'") for part in line.replace("my data", "my+data").split()[1:]]
    arguments = [part.replace("my+data", "my data") for part in arguments]
    options = ["--generator", "mobile", "--crop-size", "32", "--load-size", "36", "--dry-run"]
    assert main([*arguments, *options]) == 0


def test_the_lists_and_the_card(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "list", "--json"]) == 0
    rows = {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert rows["horse2zebra"]["paper_pictures"] == [939, 1177]
    assert rows["tiny"]["here"] is False
    fetch_tiny()
    assert main(["datasets", "show", "tiny", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["here"] is True
    assert record["pictures"] == {"trainA": 4, "trainB": 3, "testA": 1}
    assert record["next"].startswith("cyclegan train ")
    assert main(["datasets", "show", "hores2zebra"]) == 2
    assert "Did you mean horse2zebra" in capsys.readouterr().err


def test_a_set_with_nothing_to_train_names_another_command(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["/tiny.zip"] = archive({"tiny/testA/0.jpg": picture(1)})
    assert main(["datasets", "download", "tiny"]) == 0
    assert "cyclegan translate " in capsys.readouterr().err.splitlines()[-1]


def test_unknown_names(server: Server) -> None:
    for name in ("horse2zebr", "../tiny", ""):
        with pytest.raises(UnknownNameError):
            download_dataset(name)


def test_offline_means_not_one_request(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CYCLEGAN_OFFLINE", "1")
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a request was made"))
    with pytest.raises(DownloadError, match="CYCLEGAN_OFFLINE is set"):
        fetch_tiny()


def test_a_mirror_is_asked_first(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["/mirror/tiny.zip"] = server.files["/tiny.zip"]
    monkeypatch.setenv("CYCLEGAN_MIRROR", f"{server.base}/mirror/")
    fetch_tiny()
    assert server.paths() == ["/mirror/tiny.zip"]


def test_cuts_are_resumed(server: Server) -> None:
    server.acts["/tiny.zip"] = [cut(2000), status(503), cut(1000)]
    done, _ = fetch_tiny()
    asked = server.ranges_asked()
    assert asked == [None, "bytes=2000-", "bytes=2000-", "bytes=3000-"]
    assert done.counts["trainA"] == 4


def test_an_unpacking_that_was_cut_short_needs_no_second_download(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch_tiny()
    assert_nothing_landed()
    done, _ = fetch_tiny()
    assert done.counts["trainB"] == 3
    assert len(server.requests) == 1


def test_another_file_than_the_first_time_is_refused(server: Server, tmp_path: Path) -> None:
    fetch_tiny()
    server.files["/tiny.zip"] = archive({"trainA/0.jpg": picture(1)})
    with pytest.raises(DownloadError, match=r"has the digest.*digests\.json"):
        fetch_tiny(tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_what_lies_in_its_place_is_not_touched(server: Server, tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not the whole data set"):
        fetch_tiny(tmp_path)
    assert server.requests == []
    assert (tmp_path / "tiny" / "mine.txt").read_text() == "mine"


def test_too_little_disk_is_said_before_anything_is_written(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(StoreError, match="needs") as caught:
        fetch_tiny()
    assert "--to" in str(caught.value.hint)
    assert_nothing_landed()


@pytest.mark.parametrize(
    "text",
    [
        "[datasets.a]\nx = 'a'",
        "datasets = 3",
        "[datasets.a]\nx = 'a'\ny = 'b'\naddresses = ['file:///etc/passwd']",
        "[datasets.a]\nx = 'a'\ny = 'b'\naddresses = ['http://h/']\npictures = ['many', 2]",
        "[datasets.'../a']\nx = 'a'\ny = 'b'\naddresses = ['http://h/']",
        "not toml",
    ],
)
def test_a_table_that_cannot_be_understood_is_a_usage_error(text: str) -> None:
    home_dir().mkdir(parents=True)
    (home_dir() / "datasets.toml").write_text(text)
    with pytest.raises(UsageError, match=r"datasets\.toml"):
        datasets()


# -- archives that mean harm -------------------------------------------------------------------


def link() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("trainA/0.jpg", picture(1))
        info = zipfile.ZipInfo("trainA/1.jpg")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(info, "/etc/passwd")
    return buffer.getvalue()


def twice() -> bytes:
    return archive({"trainA/A.jpg": picture(1), "other/trainA/a.JPG": picture(2)})


def patched(data: bytes, find: bytes, new: bytes) -> bytes:
    assert find in data
    return data.replace(find, new)


def central(data: bytes, offset: int, kind: str, value: int, entry: int = 0) -> bytes:
    """``data`` with a field of the table of contents' entry changed."""
    start = -1
    for _ in range(entry + 1):
        start = data.index(b"PK\x01\x02", start + 1)
    out = bytearray(data)
    struct.pack_into(kind, out, start + offset, value)
    return bytes(out)


def overlapping() -> bytes:
    """Two entries of which the second is the first one's bytes again."""
    two = archive({"trainA/0.jpg": picture(1), "trainA/1.jpg": picture(1)}, zipfile.ZIP_STORED)
    return central(two, 42, "<I", 0, entry=1)


STORED = archive({"trainA/0.jpg": picture(1)}, zipfile.ZIP_STORED)
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "climbs": (lambda: archive({"trainA/../../../evil.jpg": b"x"}), "leads out"),
    "absolute": (lambda: archive({"/tmp/trainA/evil.jpg": b"x"}), "leads out"),
    "drive": (lambda: archive({"C:/trainA/evil.jpg": b"x"}), "leads out"),
    "backslash": (lambda: archive({"trainA\\evil.jpg": b"x"}), "leads out"),
    "nul": (
        lambda: patched(archive({"trainA/evil#.jpg": b"x"}), b"evil#.jpg", b"evil\0.jpg"),
        "leads out",
    ),
    "link": (link, "is a link"),
    "twice": (twice, "is there twice"),
    "control code": (lambda: archive({"trainA/\x1b[2J.jpg": b"x"}), "not every system"),
    "endless name": (lambda: archive({f"trainA/{'a' * 300}.jpg": b"x"}), "not every system"),
    "bomb": (lambda: archive({"trainA/0.jpg": bytes(20_000_000)}), "grows from"),
    "giant": (lambda: central(STORED, 24, "<I", 4_000_000_000), "4000000000 bytes"),
    "encrypted": (lambda: central(STORED, 8, "<H", 1), "is encrypted"),
    "lzma": (
        lambda: archive({"trainA/0.jpg": picture(1)}, zipfile.ZIP_LZMA),
        "a method that is not used",
    ),
    "overlap": (overlapping, "shares its bytes"),
    "no pictures": (lambda: archive({"trainA/run.exe": b"x", "a.jpg": b"x"}), "no pictures in"),
    "cut": (lambda: archive(GOOD)[:-30], "not a whole zip"),
    "a page": (lambda: b"<html>404</html>", "not a whole zip"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_is_refused_before_a_byte_is_unpacked(
    what: str, server: Server, tmp_path: Path
) -> None:
    make, reason = HOSTILE[what]
    server.acts["/tiny.zip"] = [send(make())]
    before = sorted(tmp_path.parent.glob("**/evil*"))
    with pytest.raises(DownloadError, match=reason):
        fetch_tiny()
    assert_nothing_landed()
    assert sorted(tmp_path.parent.glob("**/evil*")) == before
    assert not (home_dir() / "digests.json").exists()
    done, _ = fetch_tiny()  # nor does it bind what comes later
    assert done.counts["trainA"] == 4


@pytest.mark.parametrize(
    ("limit", "number", "reason"),
    [("_MOST_ENTRIES", 3, "entries; 3 are"), ("_MOST_BYTES", 1000, "1000 are allowed")],
)
def test_an_archive_has_no_more_than_so_many_and_so_much(
    limit: str, number: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.zip"
    file.write_bytes(archive(GOOD))
    assert what_is_wrong(file) == ""
    monkeypatch.setattr(module, limit, number)
    assert reason in what_is_wrong(file)


@pytest.mark.parametrize("size", [-1, 1])
def test_an_entry_that_is_not_as_long_as_it_says_is_no_picture(size: int, tmp_path: Path) -> None:
    data = picture(1)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        file = tmp_path / f"{method}.zip"
        lying = archive({"trainA/0.jpg": data}, method)
        file.write_bytes(central(lying, 24, "<I", len(data) + size))
        folder = tmp_path / f"out{method}"
        folder.mkdir()
        with pytest.raises(DownloadError, match=r"is damaged|than it says"):
            unpack(file, folder)
        written = sum(path.stat().st_size for path in folder.rglob("*.jpg"))
        assert written <= len(data) + max(size, 0)


def test_damage_inside_is_found_by_the_check_sum(server: Server) -> None:
    data = bytearray(archive({"trainA/0.jpg": picture(1)}, zipfile.ZIP_STORED))
    data[200] ^= 255
    server.acts["/tiny.zip"] = [send(bytes(data))]
    with pytest.raises(DownloadError, match="is damaged"):
        fetch_tiny()
    assert_nothing_landed()
    assert not (home_dir() / "digests.json").exists()
    done, _ = fetch_tiny()  # of a server that was repaired
    assert done.counts["trainA"] == 4


def test_a_damaged_archive_that_an_earlier_version_pinned_is_forgotten(server: Server) -> None:
    data = bytearray(archive({"trainA/0.jpg": picture(1)}, zipfile.ZIP_STORED))
    data[200] ^= 255
    part = part_file("dataset-tiny.zip")
    part.write_bytes(data)
    record_digest("dataset tiny.zip", hashlib.sha256(data).hexdigest())
    for left in (".tiny.abc_d123", ".tiny.0123456789ab.tmp"):  # killed while it unpacked
        (cache_dir() / "datasets" / left).mkdir(parents=True)
    done, _ = fetch_tiny()
    assert done.counts["trainA"] == 4
    assert os.listdir(cache_dir() / "datasets") == ["tiny"]
    assert not part.exists()


@given(st.text(min_size=1, max_size=60), st.sampled_from(["", "s/", "../", "/"]))
def test_no_name_leads_out_of_the_folder(name: str, lead: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        outside, folder = Path(temporary), Path(temporary, "in", "deep")
        folder.mkdir(parents=True)
        file = outside / "a.zip"
        try:
            file.write_bytes(archive({f"{lead}trainA/{name}.jpg": b"x" * 9}))
        except (UnicodeEncodeError, ValueError):
            return  # no zip file can have that name
        if what_is_wrong(file):
            return
        counts = unpack(file, folder)
        found = [path for path in outside.rglob("*") if path.is_file() and path != file]
        assert counts == {"trainA": 1}
        assert [path.parent for path in found] == [folder / FOLDERS[0]]
        assert os.fsdecode(found[0].name).isprintable()
