"""Read, paint, write: in order, bounded, past every bad file, and gone when stopped."""

from __future__ import annotations

import contextlib
import gc
import io
import threading
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cyclegan_cli.errors import PictureError
from cyclegan_cli.media.plan import Job
from cyclegan_cli.painting import batch
from cyclegan_cli.painting.batch import Done, Event, Failed, translate_pictures
from cyclegan_cli.settings import TranslateSettings

SETTINGS = TranslateSettings()


def pictures(folder: Path, count: int, size: tuple[int, int] = (5, 4)) -> list[Job]:
    folder.mkdir(parents=True, exist_ok=True)
    jobs = []
    for index in range(count):
        Image.new("RGB", size, (index % 256, 1, 2)).save(folder / f"{index}.png")
        jobs.append(Job(folder / f"{index}.png", folder / "out" / f"{index}.png", "PNG"))
    return jobs


def invert(pixels: Any) -> Any:
    return 255 - pixels


def test_results_come_in_order_past_bad_files(tmp_path: Path) -> None:
    jobs = pictures(tmp_path, 12)
    for index in (0, 5, 11):
        (tmp_path / f"{index}.png").write_bytes(b"broken")
    events = list(translate_pictures(jobs, invert, SETTINGS))
    assert [event.job for event in events] == jobs
    for index, event in enumerate(events):
        if index in (0, 5, 11):
            assert isinstance(event, Failed)
            assert f"{index}.png" in str(event.error)
            assert not (tmp_path / "out" / f"{index}.png").exists()
        else:
            assert isinstance(event, Done)
            assert (event.size, event.frames) == ((5, 4), 1)
            found = np.asarray(Image.open(io.BytesIO(event.job.target.read_bytes())))  # type: ignore[union-attr]
            assert (found == [255 - index, 254, 253]).all()


@pytest.mark.parametrize("error", [PictureError("no memory", hint="buy"), RuntimeError("odd")])
def test_a_painter_that_fails_fails_one_picture(tmp_path: Path, error: Exception) -> None:
    def paint(pixels: Any) -> Any:
        if pixels[0, 0, 0] == 1:
            raise error
        return pixels

    events = list(translate_pictures(pictures(tmp_path, 3), paint, SETTINGS))
    assert [type(event) for event in events] == [Done, Failed, Done]
    failed = events[1]
    assert isinstance(failed, Failed)
    assert "1.png" in str(failed.error)
    assert str(error) in str(failed.error)
    assert failed.error.__cause__ is error


def test_a_target_that_cannot_be_written_fails_alone(tmp_path: Path) -> None:
    jobs = pictures(tmp_path, 3)
    (tmp_path / "file").write_bytes(b"")
    jobs[1] = Job(jobs[1].source, tmp_path / "file" / "1.png", "PNG")
    events = list(translate_pictures(jobs, invert, SETTINGS))
    assert [type(event) for event in events] == [Done, Failed, Done]


def finished(jobs: Iterable[Job], **how: Any) -> tuple[list[Event], BaseException | None]:
    """The events, and what was raised; fails where neither comes to an end."""
    events: list[Event] = []
    raised: list[BaseException] = []

    def collect() -> None:
        try:
            events.extend(translate_pictures(jobs, invert, SETTINGS, **how))
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "the main thread waits for ever"
    assert not workers()
    return events, raised[0] if raised else None


ODD = [OSError(116, "Stale file handle"), MemoryError(), RuntimeError("odd"), RecursionError()]


@pytest.mark.parametrize("error", ODD, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["read_picture", "write_picture"])
def test_an_error_that_nobody_foresaw_is_that_files_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    original = getattr(batch, where)

    def fails_for_one(*arguments: Any, **options: Any) -> Any:
        if any(isinstance(one, Path) and one.name == "1.png" for one in arguments):
            raise error
        return original(*arguments, **options)

    monkeypatch.setattr(batch, where, fails_for_one)
    events, raised = finished(pictures(tmp_path, 3))
    assert raised is None
    assert [type(event) for event in events] == [Done, Failed, Done]
    assert isinstance(events[1], Failed)
    assert "1.png" in str(events[1].error)
    assert (getattr(error, "strerror", "") or str(error)) in str(events[1].error)
    assert events[1].error.__cause__ is error


def test_a_mount_that_has_gone_is_one_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(path: Path) -> bool:
        if path.name == "0.png":
            raise OSError(116, "Stale file handle", str(path))
        return False

    monkeypatch.setattr(Path, "is_fifo", stale)
    events, raised = finished(pictures(tmp_path, 2))
    assert raised is None
    assert [type(event) for event in events] == [Failed, Done]
    assert "Stale file handle" in str(events[0].error)  # type: ignore[union-attr]


@pytest.mark.parametrize("error", [RuntimeError("no more jobs"), KeyboardInterrupt()])
def test_what_concerns_no_file_reaches_the_caller(tmp_path: Path, error: BaseException) -> None:
    def jobs() -> Iterator[Job]:
        yield from pictures(tmp_path, 2)
        raise error

    _, raised = finished(jobs())
    assert raised is error


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["read_picture", "write_picture"])
def test_what_ends_a_thread_ends_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: BaseException
) -> None:
    def ends(*arguments: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(batch, where, ends)
    _, raised = finished(pictures(tmp_path, 3))
    assert raised is error


def test_stdin_and_stdout() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (9, 8, 7)).save(buffer, "BMP")
    out = io.BytesIO()
    events = list(
        translate_pictures(
            [Job(None, None, None)], invert, SETTINGS, stdin=buffer.getvalue(), stdout=out
        )
    )
    assert isinstance(events[0], Done)
    image = Image.open(out)
    assert image.format == "BMP"
    assert image.getpixel((0, 0)) == (246, 247, 248)


def test_alpha_is_carried_and_widened_for_comparison(tmp_path: Path) -> None:
    rgba = np.zeros((4, 5, 4), np.uint8)
    rgba[..., 3] = np.arange(20).reshape(4, 5)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    jobs = [Job(tmp_path / "a.png", tmp_path / "b.png", "PNG")]
    for wide in (1, 2):
        list(translate_pictures(jobs, lambda p, n=wide: np.concatenate([p] * n, axis=1), SETTINGS))  # type: ignore[misc]
        found = np.asarray(Image.open(io.BytesIO((tmp_path / "b.png").read_bytes())))
        assert np.array_equal(found[..., 3], np.concatenate([rgba[..., 3]] * wide, axis=1))


def test_a_reader_that_has_gone_is_told() -> None:
    class Gone(io.RawIOBase):
        def write(self, data: Any) -> int:
            raise BrokenPipeError

    buffer = io.BytesIO()
    Image.new("RGB", (3, 2)).save(buffer, "PNG")
    jobs = [Job(None, None, None)]
    with pytest.raises(BrokenPipeError):
        list(
            translate_pictures(jobs, invert, SETTINGS, stdin=buffer.getvalue(), stdout=Gone())  # type: ignore[arg-type]
        )
    assert not workers()


def workers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name in ("read-ahead", "write-behind")]


class Stopped(BaseException):
    """What Ctrl-C becomes."""


def report(events: Iterator[Event], where: str) -> None:
    for count, _ in enumerate(events):
        if where == "reporting" and count == 5:
            raise Stopped


@pytest.mark.parametrize("where", ["painting", "reporting"])
def test_stopping_leaves_no_thread_and_no_half_file(tmp_path: Path, where: str) -> None:
    jobs = pictures(tmp_path, 30, (300, 200))
    painted = 0

    def paint(pixels: Any) -> Any:
        nonlocal painted
        painted += 1
        if where == "painting" and painted == 6:
            raise Stopped
        return invert(pixels)

    with (
        pytest.raises(Stopped),
        contextlib.closing(translate_pictures(jobs, paint, SETTINGS)) as events,
    ):
        report(events, where)
    assert not workers()
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert 1 <= len(left) < 12
    for name in left:
        assert not name.startswith(".")
        Image.open(io.BytesIO((tmp_path / "out" / name).read_bytes())).load()


def test_few_pictures_are_held_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the painter or the writer is, the reader does not run ahead."""
    reads, writes = [], []
    read, write = batch.read_picture, batch.write_picture

    def counting_read(*arguments: Any, **options: Any) -> Any:
        reads.append(time.monotonic())
        return read(*arguments, **options)

    def slow_write(*arguments: Any, **options: Any) -> None:
        time.sleep(0.01)
        assert len(reads) - len(writes) <= 4
        write(*arguments, **options)
        writes.append(time.monotonic())

    monkeypatch.setattr(batch, "read_picture", counting_read)
    monkeypatch.setattr(batch, "write_picture", slow_write)
    events = list(translate_pictures(pictures(tmp_path, 15), invert, SETTINGS))
    assert all(isinstance(event, Done) for event in events)
    assert len(writes) == 15


def test_reading_and_writing_overlap_painting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second picture is read before the first is painted, and painted while it is written."""
    read, write = batch.read_picture, batch.write_picture
    read_both, painting_second = threading.Event(), threading.Event()
    counts = dict.fromkeys(("read", "painted", "written"), 0)

    def counted_read(*arguments: Any, **options: Any) -> Any:
        counts["read"] += 1
        picture = read(*arguments, **options)
        if counts["read"] == 2:
            read_both.set()
        return picture

    def paint(pixels: Any) -> Any:
        counts["painted"] += 1
        if counts["painted"] == 2:
            painting_second.set()
        assert read_both.wait(60)
        return pixels

    def counted_write(*arguments: Any, **options: Any) -> Any:
        counts["written"] += 1
        assert painting_second.wait(60)
        return write(*arguments, **options)

    monkeypatch.setattr(batch, "read_picture", counted_read)
    monkeypatch.setattr(batch, "write_picture", counted_write)
    events = list(translate_pictures(pictures(tmp_path, 4), paint, SETTINGS))
    assert [type(event) for event in events] == [Done] * 4
    assert set(counts.values()) == {4}


def test_many_pictures_take_no_more_memory_than_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What 2,000 more pictures leave behind; writing is left out, to be quick."""
    (source,) = (job.source for job in pictures(tmp_path, 1, (40, 30)))
    monkeypatch.setattr(batch, "write_picture", lambda *a, **k: None)
    # One target for all: a new path interns its name, whose table doubles by megabytes at once.
    target = tmp_path / "out.png"
    jobs = (Job(source, target, "PNG") for _ in range(2_600))

    def measured() -> Iterator[int]:
        for count, _ in enumerate(translate_pictures(jobs, invert, SETTINGS)):
            if count in (500, 2_500):
                gc.collect()
                yield tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        early, late = measured()
    finally:
        tracemalloc.stop()
    assert late - early < 80_000  # bytes: 40 a picture, of 3,600 bytes each
