"""How much memory the machine has left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cyclegan_cli import machine
from cyclegan_cli.machine import available_memory, resident_memory
from tests.program import environment


def test_real_figures() -> None:
    assert 2**20 < resident_memory() < 2**40
    assert 2**20 < available_memory() < 2**45


def test_control_groups(tmp_path: Path) -> None:
    """Version 2: own limit and a parent's; version 1: the memory controller's."""
    two = tmp_path / "two"
    for folder, limit in (("", "max"), ("a", "5000"), ("a/b", "max")):
        (two / folder).mkdir(exist_ok=True)
        (two / folder / "memory.max").write_text(limit + "\n")
        (two / folder / "memory.current").write_text("3000\n")
        (two / folder / "memory.stat").write_text("anon 1000\ninactive_file 1500\n")
    own = tmp_path / "cgroup"
    own.write_text("0::/a/b\n")
    assert machine._control_groups(two, own) == [5000 - 3000 + 1500]
    one = tmp_path / "one" / "memory" / "x"
    one.mkdir(parents=True)
    (one / "memory.limit_in_bytes").write_text("9000")
    (one / "memory.usage_in_bytes").write_text("4000")
    (one / "memory.stat").write_text("cache 1\ntotal_inactive_file 500\n")
    own.write_text("5:cpu:/y\n4:memory:/x\n0::/\n")
    assert machine._control_groups(tmp_path / "one", own) == [5500]
    assert machine._control_groups(two, tmp_path / "missing") == []


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space, reads /proc")
def test_the_limit_of_the_address_space_counts() -> None:
    code = (
        "import resource; from cyclegan_cli.machine import available_memory\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**30, resource.RLIM_INFINITY))\n"
        "print(available_memory())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert 2**29 < int(done.stdout) < 2**30
