"""The kernels' builds: each says itself whether this processor can run it."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cyclegan_cli.engine.fast import kernels
from cyclegan_cli.engine.fast.kernels import library
from tests.program import environment

BUILDS = sorted(Path(kernels.__file__).parent.glob("_kernels*.*so"))
pytestmark = pytest.mark.skipif(not BUILDS, reason="the kernels are not built")


@pytest.mark.parametrize("build", BUILDS, ids=lambda path: path.name)
def test_it_runs_where_pytorch_finds_the_instructions(build: Path) -> None:
    capability = torch.backends.cpu.get_cpu_capability()
    known = capability.startswith(("AVX", "DEFAULT", "NO AVX"))
    if not known:
        pytest.skip(f"no processor of x86: {capability}")
    wide = build.name.startswith("_kernels16")
    assert bool(ctypes.CDLL(str(build)).runs_here()) == capability.startswith(
        "AVX512" if wide else "AVX"
    )


@pytest.mark.parametrize("build", BUILDS, ids=lambda path: path.name)
def test_each_build_alone_is_taken(build: Path, tmp_path: Path, monkeypatch) -> None:
    """Also one without functions for bfloat16."""
    able = ctypes.CDLL(str(build)).runs_here()
    (tmp_path / build.name).symlink_to(build)
    monkeypatch.setattr(kernels, "__file__", str(tmp_path / "kernels.py"))
    assert (library.__wrapped__() is not None) == bool(able)


def test_the_widest_build_that_runs_is_taken() -> None:
    able = [build for build in BUILDS if ctypes.CDLL(str(build)).runs_here()]
    found = library()
    if not able:
        assert found is None
        return
    assert found is not None
    wide = [build for build in able if build.name.startswith("_kernels16")]
    assert Path(found._name) in (wide or able)


def test_loading_them_imports_no_pytorch() -> None:
    code = "import sys; from cyclegan_cli.engine.fast.kernels import library; library()\n"
    code += "print([m for m in ('torch',) if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
