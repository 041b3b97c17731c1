"""2,000 damaged files in one batch: no crash, no hang, the good ones done, the bad ones named."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.media.matrix import cases
from tests.program import environment

COUNT = 2_000
SECONDS = 240  # for the whole batch, on a busy machine; a hang goes past it
MEMORY = 1_500_000_000  # bytes of address space beyond the start: a hostile size fails, and no more

# The batch runs in a process of its own, so that a crash of a decoder in C is seen as one.
SCRIPT = """
import json, resource, sys, time
from pathlib import Path
from cyclegan_cli.media.plan import make_plan
from cyclegan_cli.painting.batch import Done, translate_pictures
from cyclegan_cli.settings import TranslateSettings

used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = used + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
plan = make_plan([sys.argv[1] + "/in"], style="s", output=sys.argv[1] + "/out")
settings = TranslateSettings(max_pixels=1_000_000)
result = {}
last = time.perf_counter()
for event in translate_pictures(plan.jobs, lambda pixels: pixels, settings):
    now = time.perf_counter()
    said = None if isinstance(event, Done) else str(event.error)
    result[event.job.source.name] = (said, now - last)
    last = now
# Not getrusage: its ru_maxrss counts what the parent held when it started this process.
status = Path("/proc/self/status").read_text().split()
peak = int(status[status.index("VmHWM:") + 1]) * 1024
print(json.dumps({"events": result, "peak": peak}))
"""


def flip(data: bytes, chance: random.Random, other: bytes) -> bytes:
    """1 to 8 bits turned, half of the time in the header."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        end = min(64, len(changed)) if chance.random() < 0.5 else len(changed)
        changed[chance.randrange(end)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def cut(data: bytes, chance: random.Random, other: bytes) -> bytes:
    return data[: chance.randrange(len(data))]


def splice(data: bytes, chance: random.Random, other: bytes) -> bytes:
    """The beginning of one file and the rest of another."""
    at = chance.randrange(4, 64)
    return other[:at] + data[at:]


def stuff(data: bytes, chance: random.Random, other: bytes) -> bytes:
    """Four bytes become an extreme number, or a piece is repeated or lost."""
    at, size = chance.randrange(len(data)), chance.randrange(1, 40)
    piece = chance.choice(
        [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", data[at : at + size] * 3, b""]
    )
    return data[:at] + piece + data[at + 4 :]


def mutants() -> dict[str, bytes]:
    sources = [case for case in cases() if len(case.data) < 6_000]
    ways: list[Callable[[bytes, random.Random, bytes], bytes]] = [flip, cut, splice, stuff]
    chance = random.Random(20)
    made = {}
    for index in range(COUNT):
        case, other = chance.choice(sources), chance.choice(sources)
        name = f"{index:04}_{ways[index % 4].__name__}_{case.name}"
        made[name] = ways[index % 4](case.data, chance, other.data)
    return made


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the bound of memory needs Linux")
def test_two_thousand_damaged_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    broken = mutants()
    # Where the damage left a picture whole, it is done; the good ones must be done.
    good = {f"{index:04}_good_{case.name}": case.data for index, case in enumerate(cases())}
    for name, data in (broken | good).items():
        (tmp_path / "in" / name).write_bytes(data)
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, str(tmp_path), str(MEMORY)],
        capture_output=True,
        timeout=SECONDS,
        env=environment(),
        check=False,
    )
    assert run.returncode == 0, run.stderr.decode()[-2000:]
    outcome = json.loads(run.stdout)
    events = outcome["events"]
    assert set(events) == set(broken | good)
    assert [name for name in good if events[name][0] is not None] == []
    failed = [name for name, (said, _) in events.items() if said is not None]
    assert len(failed) > COUNT // 3
    for name in failed:
        assert name in events[name][0]
        assert "\n" not in events[name][0]
        assert not (tmp_path / "out" / name).exists()
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert len(left) == len(events) - len(failed)
    assert not [name for name in left if name.startswith(".")]
    assert max(seconds for _, seconds in events.values()) < 20
    assert outcome["peak"] < 700_000_000
    assert b"Warning" not in run.stderr
