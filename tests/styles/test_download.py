"""Downloads from a real server on loopback: whatever it does, only what verified lands."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import multiprocessing
import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cyclegan_cli.cli.app import main
from cyclegan_cli.engine.weights import load_generator
from cyclegan_cli.errors import DownloadError, StoreError, UnknownNameError, UsageError
from cyclegan_cli.files import cache_dir, home_dir
from cyclegan_cli.styles.convert import verify_style
from cyclegan_cli.styles.download import Downloaded, download_style, ensure
from cyclegan_cli.styles.fetch import Failed, Learned, Patience, Received, Trying, Waiting
from cyclegan_cli.styles.store import find_style, list_styles, remove_style, weights_file
from tests.program import make_pictures
from tests.styles.make import a_style
from tests.styles.public_model import public_generator
from tests.styles.server import (
    Act,
    Handler,
    Server,
    cut,
    drip,
    flood,
    hang,
    nonsense,
    running,
    send,
    serve,
    status,
    wrong_range,
)
from tests.styles.test_safeload import Hostile

SOON = Patience(timeout=0.7, attempts=4, first_wait=0.01, slowest=2000, window=0.3)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Two generators as the public code saves them."""
    folder = tmp_path_factory.mktemp("public")
    found = {}
    for seed, name in enumerate(("a.pth", "b.pth")):
        torch.save(public_generator(seed, blocks=2, ngf=4).state_dict(), folder / name)
        found["/" + name] = (folder / name).read_bytes()
    return found


@pytest.fixture
def server(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with running(Server(files=dict(files))) as rules:
        yield rules


def git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def catalogue(server: Server, *, digests: bool = True, both: bool = True, **extra: object) -> None:
    """A catalogue of the user's with the style 'ab' on this server."""
    text = ""
    for way, file in (("xy", "a.pth"), ("yx", "b.pth"))[: 2 if both else 1]:
        row = {"style": "ab", "direction": way, "x": "a", "y": "b", "file": file}
        row = {**row, "addresses": [f"{server.base}/{{file}}"], "licence": "CC0", **extra}
        if digests:
            row["git_blob"] = git_blob(server.files["/" + file])
        text += "[[generator]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in row.items())
    home_dir().mkdir(parents=True, exist_ok=True)
    (home_dir() / "catalogue.toml").write_text(text)


def fetch_ab(**options: object) -> tuple[Downloaded, list[object]]:
    events: list[object] = []
    done = download_style("ab", patience=SOON, tell=events.append, **options)  # type: ignore[arg-type]
    return done, events


def nothing_landed() -> bool:
    """No style, and no trace of one but parts that a later download may go on from."""
    folder = cache_dir() / "styles"
    styles = [f for f in folder.iterdir() if f.name != ".lock"] if folder.exists() else []
    return styles == [] and list_styles(available=False) == []


def parts() -> list[str]:
    folder = cache_dir() / "downloads"
    return sorted(f.name for f in folder.iterdir() if not f.name.endswith(".lock"))


def assert_right(server: Server) -> None:
    style = find_style("ab")
    assert (style.origin, style.x, style.y, style.card["licence"]) == (
        "downloaded",
        "a",
        "b",
        "CC0",
    )
    assert verify_style(style) == []
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    for way, seed in (("xy", 0), ("yx", 1)):
        if way in style.directions:
            source = style.card["sources"][way]
            data = server.files["/" + source["file"]]
            assert source["sha256"] == hashlib.sha256(data).hexdigest()
            assert source["git_blob"] == git_blob(data)
            network = load_generator(weights_file(style, way == "yx"))
            with torch.no_grad():
                assert torch.equal(network(x), public_generator(seed, blocks=2, ngf=4)(x))
    assert parts() == []


def test_a_good_server(server: Server) -> None:
    catalogue(server)
    assert find_style("ab").origin == "available"
    done, events = fetch_ab()
    assert done.fetched == ("xy", "yx")
    assert done.failed == {}
    assert_right(server)
    assert server.paths() == ["/a.pth", "/b.pth"]
    assert isinstance(events[0], Trying)
    received = [event for event in events if isinstance(event, Received)]
    assert received[-1].count == received[-1].total == len(server.files["/b.pth"])


def test_what_is_here_needs_no_network(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue(server)
    fetch_ab()
    server.requests.clear()
    monkeypatch.setenv("CYCLEGAN_OFFLINE", "1")
    done, events = fetch_ab()
    assert (done.fetched, events, server.requests) == ((), [], [])


def test_offline_means_not_one_request(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue(server)
    monkeypatch.setenv("CYCLEGAN_OFFLINE", "1")
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a request was made"))
    with pytest.raises(DownloadError, match="CYCLEGAN_OFFLINE is set") as caught:
        fetch_ab()
    assert "pretrained import FILE --name ab" in str(caught.value.hint)
    assert server.requests == []


def test_an_unknown_name_gets_a_did_you_mean(server: Server) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean vangogh"):
        download_style("vangohg")
    with pytest.raises(UnknownNameError):
        download_style("../../etc")


# -- servers that fail for a while -------------------------------------------------------------


@pytest.mark.parametrize("digests", [True, False], ids=["digest", "no-digest"])
def test_a_cut_is_resumed_where_it_was(server: Server, digests: bool) -> None:
    catalogue(server, digests=digests, both=False)
    server.acts["/a.pth"] = [cut(5000), cut(7000)]
    fetch_ab()
    assert_right(server)
    assert server.ranges_asked() == [None, "bytes=5000-", "bytes=12000-"]


def test_another_process_goes_on_where_one_stopped(server: Server) -> None:
    catalogue(server, both=False)
    server.acts["/a.pth"] = [cut(5000)]
    with pytest.raises(DownloadError, match="it stopped after 5000 of"):
        download_style("ab", patience=Patience(attempts=1))
    assert nothing_landed()
    fetch_ab()
    assert server.ranges_asked() == [None, "bytes=5000-"]
    assert_right(server)


def test_without_a_digest_two_versions_are_never_mixed(server: Server) -> None:
    catalogue(server, digests=False, both=False)
    server.acts["/a.pth"] = [cut(5000)]
    with pytest.raises(DownloadError):
        download_style("ab", patience=Patience(attempts=1))
    server.files["/a.pth"], server.etag = server.files["/b.pth"], '"two"'
    fetch_ab()
    sha256 = hashlib.sha256(server.files["/b.pth"]).hexdigest()
    assert find_style("ab").card["sources"]["xy"]["sha256"] == sha256


def test_without_digest_or_version_a_cut_starts_anew(server: Server) -> None:
    catalogue(server, digests=False, both=False)
    server.etag = None
    server.acts["/a.pth"] = [cut(5000)]
    fetch_ab()
    assert server.ranges_asked() == [None, None]
    assert_right(server)


def test_a_server_that_ignores_range(server: Server) -> None:
    catalogue(server, both=False)
    server.ranges = False
    server.acts["/a.pth"] = [cut(5000)]
    fetch_ab()
    assert server.ranges_asked() == [None, "bytes=5000-"]
    assert_right(server)


PASSING: dict[str, list[Act]] = {
    "503": [status(503)],
    "500, 429, 504": [status(500), status(429), status(504)],
    "silence": [hang],
    "nonsense": [nonsense],
    "drip": [drip],
    "head only": [cut(0)],
    "empty": [send(b"")],
    "wrong range": [cut(5000), wrong_range],
    "416": [cut(5000), status(416)],
    "drip at the end": [cut(5000), drip],
}


@pytest.mark.parametrize("what", PASSING)
def test_what_passes_is_tried_again(server: Server, what: str) -> None:
    catalogue(server, both=False)
    count = len(PASSING[what])
    server.acts["/a.pth"] = list(PASSING[what])
    _, events = fetch_ab()
    assert_right(server)
    assert len(server.requests) == count + 1
    failures = [event for event in events if isinstance(event, Failed)]
    assert len(failures) == count
    assert all(failure.again and failure.reason for failure in failures)


def test_wrong_content_that_is_cut_is_found_out(server: Server) -> None:
    catalogue(server, both=False)
    server.acts["/a.pth"] = [send(b"x" * 100, length=200)]
    fetch_ab()
    assert server.ranges_asked() == [None, "bytes=100-", None]
    assert_right(server)


def test_a_part_of_an_older_file_is_given_up(server: Server) -> None:
    catalogue(server, both=False)
    folder = cache_dir() / "downloads"
    folder.mkdir(parents=True)
    (folder / "ab-xy-a.pth.part").write_bytes(b"something else entirely")
    fetch_ab()
    assert server.ranges_asked() == ["bytes=23-", None]
    assert_right(server)


def test_redirects_are_followed(server: Server) -> None:
    catalogue(server, both=False)
    server.files["/moved/a.pth"] = server.files["/a.pth"]
    server.acts["/a.pth"] = [status(302, Location=f"{server.base}/moved/a.pth")]
    fetch_ab()
    assert server.paths() == ["/a.pth", "/moved/a.pth"]
    assert_right(server)


# -- servers that never will -------------------------------------------------------------------


def hostile_file() -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": Hostile(os.system, "touch /tmp/should-not-exist")}, buffer)
    return buffer.getvalue()


LASTING: dict[str, tuple[Act, int]] = {
    "404 Not Found": (status(404), 1),
    "403 Forbidden": (status(403), 1),
    "410 Gone": (status(410), 1),
    "503 Service Unavailable": (status(503), 4),
    "and not ": (send(b"<html>lost</html>"), 1),
    "has the digest": (send(b"x" * 300, length=200), 1),
    "compressed": (send(b"\x1f\x8b", Content_Encoding="gzip"), 1),
    "1000000000000 bytes; 256000000 are allowed": (send(b"x", length=10**12), 1),
    "file:///etc/passwd": (status(302, Location="file:///etc/passwd"), 1),
    "redirects to ftp:": (status(302, Location="ftp://127.0.0.1/a.pth"), 1),
    "did not answer in time": (hang, 4),
    "it sent only": (drip, 4),
    "stopped after 0 of": (cut(0), 4),
}


@pytest.mark.parametrize("reason", LASTING)
def test_nothing_lands_that_did_not_verify(server: Server, reason: str) -> None:
    catalogue(server, both=False)
    act, tries = LASTING[reason]
    server.acts["/a.pth"] = [act] * 10
    with pytest.raises(DownloadError, match=reason) as caught:
        fetch_ab()
    assert f"{server.base}/a.pth" in str(caught.value)  # which address
    assert "cyclegan pretrained import FILE --name ab" in str(caught.value.hint)  # the way round
    assert len(server.requests) == tries
    assert nothing_landed()


def test_a_redirect_loop_ends(server: Server) -> None:
    catalogue(server, both=False)
    server.acts["/a.pth"] = [status(302, Location=f"{server.base}/a.pth")] * 50
    with pytest.raises(DownloadError, match="302"):
        fetch_ab()
    assert len(server.requests) <= 5
    assert nothing_landed()


def test_a_flood_fills_no_disk(server: Server) -> None:
    catalogue(server, both=False, size_limit=1_000_000)
    server.acts["/a.pth"] = [flood]
    with pytest.raises(DownloadError, match="larger than 1000000 bytes"):
        fetch_ab()
    assert parts() == []
    assert nothing_landed()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<html>404</html>", "is not a PyTorch file"),
        (hostile_file(), "would run code"),
        (b"PK\x03\x04" + bytes(100), "is cut short or damaged"),
    ],
)
def test_without_a_digest_the_safe_loader_decides(server: Server, data: bytes, reason: str) -> None:
    catalogue(server, digests=False, both=False)
    server.acts["/a.pth"] = [send(data)]
    with pytest.raises(DownloadError, match=reason) as caught:
        fetch_ab()
    assert server.base in str(caught.value)
    assert nothing_landed()
    assert parts() == []
    assert not Path("/tmp/should-not-exist").exists()
    assert not (home_dir() / "digests.json").exists()


def test_nobody_listens(server: Server) -> None:
    catalogue(server, both=False, addresses=["http://127.0.0.1:9/{file}"])
    with pytest.raises(DownloadError, match=r"http://127.0.0.1:9/a.pth: Connection refused"):
        fetch_ab()


def test_a_cache_that_cannot_be_written(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue(server, both=False)
    (home_dir() / "file").write_text("")
    monkeypatch.setenv("CYCLEGAN_CACHE", str(home_dir() / "file"))
    with pytest.raises(StoreError, match="cannot be written") as caught:
        fetch_ab()
    assert "CYCLEGAN_CACHE" in str(caught.value.hint)
    assert server.requests == []


def test_a_full_disk_is_no_servers_fault(server: Server) -> None:
    catalogue(server, both=False)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))  # as a disk with little room
    try:
        with pytest.raises(StoreError, match=r"a\.pth\.part cannot be written: File too large"):
            fetch_ab()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(server.requests) == 1
    assert nothing_landed()


# -- the first download of a file of which no digest is known --------------------------------


def test_the_first_digest_binds_the_later_ones(server: Server) -> None:
    catalogue(server, digests=False, both=False)
    _, events = fetch_ab()
    sha256 = hashlib.sha256(server.files["/a.pth"]).hexdigest()
    assert [event for event in events if isinstance(event, Learned)] == [Learned("a.pth", sha256)]
    remove_style("ab")
    _, events = fetch_ab()  # the record outlives the style
    assert not any(isinstance(event, Learned) for event in events)
    remove_style("ab")
    server.files["/a.pth"] = server.files["/b.pth"]
    with pytest.raises(DownloadError, match=r"digest.*was recorded in .*digests\.json"):
        fetch_ab()
    assert nothing_landed()


# -- several addresses -------------------------------------------------------------------------


def test_the_next_address_is_tried(server: Server) -> None:
    addresses = [
        f"{server.base}/gone/{{file}}",
        "http://127.0.0.1:9/{file}",
        f"{server.base}/{{file}}",
    ]
    catalogue(server, both=False, addresses=addresses)
    fetch_ab()
    assert server.paths() == ["/gone/a.pth", "/a.pth"]
    assert_right(server)


def test_a_mirror_is_asked_first(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue(server, both=False)
    server.files["/mirror/a.pth"] = server.files["/a.pth"]
    monkeypatch.setenv("CYCLEGAN_MIRROR", f"{server.base}/mirror/")
    fetch_ab()
    assert server.paths() == ["/mirror/a.pth"]
    assert_right(server)
    assert find_style("ab").card["sources"]["xy"]["address"] == f"{server.base}/mirror/a.pth"


def test_a_lying_mirror_is_passed_over(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue(server, both=False)
    server.files["/mirror/a.pth"] = server.files["/b.pth"]
    monkeypatch.setenv("CYCLEGAN_MIRROR", f"{server.base}/mirror")
    fetch_ab()
    assert server.paths() == ["/mirror/a.pth", "/a.pth"]
    assert_right(server)


def test_a_proxy_of_the_environment_is_used(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue(server, both=False, addresses=["http://styles.invalid/{file}"])
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", server.base)
    fetch_ab()
    assert server.paths() == ["http://styles.invalid/a.pth"]
    assert_right(server)


# -- half of a pair ----------------------------------------------------------------------------


def test_one_direction_of_two_is_kept_and_the_other_fetched_later(server: Server) -> None:
    catalogue(server)
    server.acts["/b.pth"] = [status(404)]
    done, _ = fetch_ab()
    assert done.fetched == ("xy",)
    assert "404" in str(done.failed["yx"])
    assert set(find_style("ab").directions) == {"xy"}
    server.requests.clear()
    done, _ = fetch_ab()
    assert done.fetched == ("yx",)
    assert server.paths() == ["/b.pth"]
    assert_right(server)
    assert set(find_style("ab").directions) == {"xy", "yx"}


def test_a_damaged_direction_is_fetched_again(server: Server) -> None:
    catalogue(server)
    fetch_ab()
    weights_file(find_style("ab"), True).write_bytes(b"damaged")
    server.requests.clear()
    done, _ = fetch_ab()
    assert (done.fetched, server.paths()) == (("yx",), ["/b.pth"])
    assert_right(server)


def test_force_that_fails_takes_nothing_away(server: Server) -> None:
    catalogue(server)
    fetch_ab()
    server.acts["/a.pth"] = [status(404)]
    server.acts["/b.pth"] = [status(404)]
    with pytest.raises(DownloadError):
        fetch_ab(force=True)
    assert_right(server)
    server.acts["/b.pth"] = [status(404)]
    done, _ = fetch_ab(force=True)
    assert (done.fetched, set(done.failed)) == (("xy",), {"yx"})
    assert_right(server)
    assert set(find_style("ab").directions) == {"xy", "yx"}


def test_a_download_behind_an_own_style_hides(server: Server, tmp_path: Path) -> None:
    catalogue(server)
    a_style(tmp_path, "ab")
    fetch_ab()
    found = find_style("ab")
    assert (found.origin, found.hides) == ("trained", ("downloaded",))


# -- two at once -------------------------------------------------------------------------------


def _download(queue: multiprocessing.Queue[object]) -> None:
    events: list[object] = []
    done = download_style("ab", patience=Patience(), tell=events.append)
    queue.put((done.fetched, [event for event in events if isinstance(event, Waiting)]))


def test_two_processes_make_one_download(server: Server) -> None:
    catalogue(server)

    def slowly(handler: Handler) -> None:
        time.sleep(0.5)
        serve(handler)

    server.acts["/a.pth"] = [slowly]
    fork = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[object] = fork.Queue()
    processes = [fork.Process(target=_download, args=(queue,)) for _ in range(3)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert sorted(server.paths()) == ["/a.pth", "/b.pth"]
    assert sorted(fetched for fetched, _ in results) == [(), (), ("xy", "yx")]  # type: ignore[misc]
    assert sum(len(waiting) for _, waiting in results) == 2  # type: ignore[misc]
    assert_right(server)


# -- the command -------------------------------------------------------------------------------


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``cyclegan pretrained download ARGUMENTS``."""
    code = main(["pretrained", "download", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture
def _no_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cyclegan_cli.cli.app.stop_on_signals", lambda: None)


@pytest.mark.usefixtures("_no_signals")
def test_the_command(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue(server)
    server.acts["/b.pth"] = [status(404)]
    code, out, err = command(capsys, "ab")
    assert (code, out) == (1, f"{cache_dir() / 'styles' / 'ab'}\n")
    assert f"Downloading {server.base}/a.pth" in err
    assert "error: b.pth: No address gave the file." in err
    assert "404" in err
    assert "cyclegan pretrained import FILE --name ab" in err
    assert "Traceback" not in err
    code, out, _ = command(capsys, "ab", "--json")
    assert (code, json.loads(out)["fetched"]) == (0, ["yx"])
    monkeypatch.setenv("CYCLEGAN_OFFLINE", "1")
    code, out, err = command(capsys, "ab")
    assert (code, err) == (0, "'ab' is here already.\n")
    code, out, err = command(capsys, "ab", "--quiet")
    assert (code, out, err) == (0, f"{cache_dir() / 'styles' / 'ab'}\n", "")


@pytest.mark.usefixtures("_no_signals")
def test_the_command_asks_nothing_before_every_name_is_known(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    catalogue(server)
    code, out, err = command(capsys, "ab", "vangohg")
    assert (code, out, server.requests) == (2, "", [])
    assert "Did you mean vangogh" in err
    assert command(capsys)[0] == 2
    assert command(capsys, "ab", "--all")[0] == 2


# -- lines that break, mirrors that lie ------------------------------------------------------


def test_a_line_that_breaks_again_and_again_still_brings_the_file(server: Server) -> None:
    buffer = io.BytesIO()
    torch.save(public_generator(0, blocks=2, ngf=16).state_dict(), buffer)
    server.files["/a.pth"] = buffer.getvalue()
    catalogue(server, both=False)
    pieces = len(buffer.getvalue()) // 100_000
    assert pieces > SOON.attempts
    server.acts["/a.pth"] = [cut(100_000)] * pieces
    _, events = fetch_ab()
    assert len(server.requests) == pieces + 1
    assert all(event.again for event in events if isinstance(event, Failed))
    assert find_style("ab").directions["xy"].generator.width == 16


def test_a_server_that_takes_back_what_it_gave_is_given_up(server: Server) -> None:
    server.files["/a.pth"] = bytes(1_000_000)
    catalogue(server, both=False)
    server.acts["/a.pth"] = [cut(100_000), status(416)] * 20
    with pytest.raises(DownloadError, match="No address gave the file"):
        fetch_ab()
    assert len(server.requests) <= SOON.attempts + 1
    assert nothing_landed()


def test_pieces_of_two_servers_are_not_mixed_without_a_digest(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both call their file '"one"', and the files are of one length.
    with running(Server(files={"/a.pth": server.files["/b.pth"]})) as mirror:
        catalogue(server, digests=False, both=False)
        monkeypatch.setenv("CYCLEGAN_MIRROR", mirror.base)
        mirror.acts["/a.pth"] = [cut(5000)]
        fetch_ab()
        assert mirror.ranges_asked() == [None]
    assert server.ranges_asked() == [None]
    assert_right(server)


def test_without_a_digest_too_the_next_address_is_tried(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(Server(files={"/a.pth": b"<html>please log in</html>"})) as mirror:
        catalogue(server, digests=False, both=False)
        monkeypatch.setenv("CYCLEGAN_MIRROR", mirror.base)
        _, events = fetch_ab()
        assert mirror.paths() == server.paths() == ["/a.pth"]
        assert find_style("ab").card["sources"]["xy"]["address"] == f"{server.base}/a.pth"
    assert_right(server)
    failed = [event for event in events if isinstance(event, Failed)]
    assert [event.reason for event in failed] == [
        "what it sent is not a PyTorch file, but a web page (HTML)"
    ]


# -- what translate asks for ------------------------------------------------------------------


def test_ensure_downloads_what_is_only_available(server: Server) -> None:
    catalogue(server)
    file = ensure(find_style("ab"), True, patience=SOON)
    assert file == find_style("ab").directions["yx"].file
    server.requests.clear()
    assert ensure(find_style("ab"), True) == file
    assert ensure(find_style("ab"), False).name == "xy.safetensors"
    assert server.requests == []


def test_ensure_fetches_the_direction_that_is_missing(server: Server) -> None:
    catalogue(server)
    server.acts["/b.pth"] = [status(404)] * 2
    ensure(find_style("ab"), False, patience=SOON)
    assert set(find_style("ab").directions) == {"xy"}
    with pytest.raises(DownloadError, match="404"):
        ensure(find_style("ab"), True, patience=SOON)
    assert ensure(find_style("ab"), True, patience=SOON).name == "yx.safetensors"


def test_ensure_knows_what_nobody_has(server: Server, tmp_path: Path) -> None:
    catalogue(server, both=False)
    with pytest.raises(UsageError, match="no direction b → a: only a → b is to be had") as caught:
        ensure(find_style("ab"), True)
    assert caught.value.hint == "Leave out --reverse for a → b."
    ensure(find_style("ab"), False, patience=SOON)
    with pytest.raises(UsageError, match="no direction b → a"):
        ensure(find_style("ab"), True)
    own = a_style(tmp_path, "monet", both=False)
    with pytest.raises(UsageError, match="no direction"):
        ensure(own, True)  # the catalogue's other direction is no part of it


# -- no network ------------------------------------------------------------------------------

NO_NETWORK = {
    "no server of names": socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
    "no such name": socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
    "no way": OSError(errno.ENETUNREACH, "Network is unreachable"),
}


@pytest.fixture(params=NO_NETWORK)
def unreachable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> OSError:
    """Every request fails as it does on a machine without a network."""
    error = NO_NETWORK[request.param]

    def fails(*_: object, **__: object) -> None:
        raise error

    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    if isinstance(error, socket.gaierror):
        monkeypatch.setattr(socket, "getaddrinfo", fails)
    else:
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])
        monkeypatch.setattr(socket, "create_connection", fails)
    return error


@pytest.mark.bundled
@pytest.mark.parametrize(
    "command",
    [
        "translate a.png -s cezanne",
        "translate a.png -s monet-public --reverse",
        "pretrained download monet-public",
        "pretrained download --all",
        "pretrained export cezanne G.pth",
        "datasets download maps",
    ],
)
def test_no_network_is_one_line_and_what_is_here(
    unreachable: OSError,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    make_pictures(tmp_path, 1, 0).joinpath("00.png").rename("a.png")
    assert main(command.split()) == 1
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if not line.startswith("Downloading http")]
    assert said.out == ""
    assert len(lines) == 2, said.err
    assert lines[0].startswith("error: The ")
    assert "there is no network" in lines[0]
    assert str(unreachable.strerror) in lines[0]
    if "datasets" not in command:
        assert "On this machine: monet, vangogh." in lines[1]
    if isinstance(unreachable, socket.gaierror):
        assert len(said.err.splitlines()) == 2  # nothing is announced that cannot begin


def test_a_mirror_that_is_not_found_is_passed_over(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue(server, both=False)
    monkeypatch.setenv("CYCLEGAN_MIRROR", "http://mirror.invalid")
    lookup = socket.getaddrinfo

    def none(host: str, *arguments: Any, **options: Any) -> Any:
        if host.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return lookup(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", none)
    events: list[object] = []
    done = download_style("ab", patience=SOON, tell=events.append)
    assert done.fetched == ("xy",)
    failures = [event for event in events if isinstance(event, Failed)]
    assert [failure.again for failure in failures] == [False]
    assert "mirror.invalid" in failures[0].reason


def test_a_network_that_goes_while_it_is_used_is_waited_for(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that was found a moment ago is looked up again; the download goes on."""
    catalogue(server, both=False)
    server.acts["/a.pth"] = [cut(3000)]
    lookup, calls = socket.getaddrinfo, []

    def goes_once(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(server.requests) == 1 and len(calls) < 5:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return lookup(*arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", goes_once)
    assert download_style("ab", patience=SOON).fetched == ("xy",)


@pytest.mark.parametrize("offline", [False, True])
def test_translate_fetches_a_direction_that_is_missing(
    server: Server,
    offline: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    catalogue(server)
    server.acts["/b.pth"] = [status(404)]
    assert download_style("ab", patience=SOON).fetched == ("xy",)
    make_pictures(tmp_path, 1, 0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CYCLEGAN_OFFLINE", "1" if offline else "")
    server.requests.clear()
    arguments = ["translate", "00.png", "-s", "ab", "--reverse", "--gpu", "cpu"]
    assert main(arguments) == (1 if offline else 0)
    said = capsys.readouterr()
    if offline:
        assert "CYCLEGAN_OFFLINE" in said.err
        assert "On this machine: ab." in said.err
        return
    assert said.out == "00_ab-reverse.png\n"
    assert f"Downloading {server.base}/b.pth" in said.err
    assert server.paths() == ["/b.pth"]
    assert set(find_style("ab").directions) == {"xy", "yx"}


def test_export_downloads_and_says_so(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalogue(server)
    assert main(["pretrained", "export", "ab", str(tmp_path / "G.pth")]) == 0
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'G.pth'}\n"
    assert f"Downloading {server.base}/a.pth" in said.err
    state = torch.load(tmp_path / "G.pth", weights_only=True)
    assert list(state) == list(public_generator(0, blocks=2, ngf=4).state_dict())
