"""Does a test notice when the program is wrong? One small change at a time, and its tests are run.

    python -m tests.mutation [PATH…] [--count N] [--seed N] [--list]

A change that every test passes with survives, and is printed with its place: either it changes
nothing that matters, or a test is missing. The changes are made in a copy; each is tried by a fork
of one process that has imported PyTorch already, with the tests of its own module (``tests_of``).
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("cyclegan_cli/engine", "cyclegan_cli/media", "cyclegan_cli/styles")
# The tests of modules that have no test file of their own name, below tests/.
TESTS = {
    "engine/device": "engine/test_device.py cli/test_train.py",
    "engine/distributed": "engine/test_distributed.py painting/test_bands.py",
    "engine/evaluation": "engine/test_evaluation.py cli/test_evaluate.py",
    "engine/layers": "engine/test_layers.py engine/test_weights.py painting/test_evaluate.py",
    "engine/losses": "engine/test_losses.py engine/test_patches.py",
    "engine/networks": "engine/test_networks.py engine/test_features.py",
    "engine/run": "engine/test_checkpoint.py cli/test_resume.py cli/test_report.py",
    "engine/training": "engine/test_watchdogs.py cli/test_train.py cli/test_resume.py",
    "media/deep": "media/test_tiff.py media/test_pictures.py",
    "engine/fast/kernels": "engine/fast/test_kernels.py engine/fast/test_builds.py",
    "media/folders": "media/test_plan.py media/test_survey.py",
    "media/formats": "media/test_plan.py media/test_pictures.py",
    "styles/catalogue": "styles/test_store.py styles/test_catalogue.py",
    "painting/effects": "painting/test_effects.py painting/test_color.py painting/test_steady.py "
    "painting/test_follow.py",
    "styles/convert": "styles/test_store.py styles/test_hostile.py styles/test_publicformat.py",
    "styles/fetch": "styles/test_download.py",
}
OPPOSITES: dict[type, type] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt},
    **{ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In},
    **{ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult},
    **{ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift},
}


@dataclass(frozen=True)
class Mutant:
    """``before`` at ``line`` of ``path`` becomes ``after``: bytes ``start`` to ``stop``."""

    path: Path
    line: int
    start: int
    stop: int
    before: str
    after: str

    def __str__(self) -> str:
        short = [" ".join(text.split())[:70] for text in (self.before, self.after)]
        return f"{self.path}:{self.line}: {short[0]}  →  {short[1]}"


def mutants(path: Path) -> Iterator[Mutant]:
    """Every change that is made to the module at ``path``, relative to ROOT."""
    source = (ROOT / path).read_bytes()
    starts = [0]
    for text in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(text))
    for node, after in _changes(ast.parse(source)):
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = starts[node.lineno - 1] + node.col_offset
        stop = starts[node.end_lineno - 1] + node.end_col_offset
        yield Mutant(path, node.lineno, start, stop, source[start:stop].decode(), after)


def _changes(node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    if isinstance(node, ast.stmt):
        yield from ((node, text) for text in _of_statement(node))
    elif isinstance(node, ast.expr):
        yield from ((node, f"({text})") for text in _of_expression(node))
    for field, value in ast.iter_fields(node):
        # Types are mypy's matter, and what an error says is not tested word for word.
        if field in ("annotation", "returns", "decorator_list") or isinstance(node, ast.Raise):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                yield from _changes(child)


def _of_statement(node: ast.stmt) -> Iterator[str]:
    dropped = isinstance(node, ast.Raise | ast.AugAssign | ast.Break | ast.Continue)
    if dropped or (isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)):
        yield "pass"
    elif isinstance(node, ast.Return) and ast.unparse(node) not in ("return", "return None"):
        yield "return None"


def _of_expression(node: ast.expr) -> Iterator[str]:
    new = copy.deepcopy(node)
    if isinstance(new, ast.Compare) and len(new.ops) == 1:
        new.ops = [OPPOSITES[type(new.ops[0])]()]
        yield ast.unparse(new)
    elif isinstance(new, ast.BinOp | ast.BoolOp) and type(new.op) in OPPOSITES:
        new.op = OPPOSITES[type(new.op)]()
        yield ast.unparse(new)
    elif isinstance(new, ast.UnaryOp):
        yield ast.unparse(new.operand)
    elif isinstance(new, ast.IfExp):
        yield ast.unparse(new.body)
        yield ast.unparse(new.orelse)
    elif isinstance(new, ast.Call):
        if isinstance(new.func, ast.Attribute) and not new.args and not new.keywords:
            yield ast.unparse(new.func.value)  # x.clone() -> x
        for index in range(len(new.keywords)):
            less = copy.deepcopy(new)
            del less.keywords[index]
            yield ast.unparse(less)
    elif isinstance(new, ast.Constant) and isinstance(new.value, int | float):
        value = new.value
        yield repr(not value if isinstance(value, bool) else value + 1)
        if isinstance(value, float):
            yield repr(value * 0.8)


def tests_of(path: Path) -> list[str]:
    """The test files of a module: of its name, those of TESTS, or its whole room."""
    room, module = path.parts[1], path.stem
    if names := TESTS.get(f"{room}/{module}"):
        return [f"tests/{name}" for name in names.split()]
    own = Path("tests", *path.parts[1:-1], f"test_{module}.py")
    return [str(own if (ROOT / own).exists() else Path("tests", room))]


def passes(tests: Sequence[str], copied: Path, limit: float) -> bool:
    """Whether ``tests`` of the copy pass within ``limit`` seconds, in a fork."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = _run(tests, copied)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    deadline, status = time.monotonic() + limit, 0
    while not (ended := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < deadline:
        time.sleep(0.02)
    if ended[0]:
        status = ended[1]
    else:
        os.killpg(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
    return os.waitstatus_to_exitcode(status) == 0


def _run(tests: Sequence[str], copied: Path) -> int:
    import pytest
    from hypothesis import Phase, settings

    os.setpgid(0, 0)
    os.chdir(copied)
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for fd in (1, 2):
        os.dup2(log, fd)
    for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "cyclegan_cli")]:
        del sys.modules[name]
    sys.path[:0] = [str(copied)]
    phases = (Phase.explicit, Phase.generate)  # that it fails is enough
    settings.register_profile("mutation", derandomize=True, database=None, phases=phases)
    settings.load_profile("mutation")
    options = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # hypothesis is here already
    options += ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={copied / 'tmp'}"]
    return int(pytest.main([*tests, *options]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("paths", nargs="*", default=ROOMS, help="modules or folders of them")
    parser.add_argument("--count", type=int, help="so many changes, drawn at random; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--list", action="store_true", help="only print the changes")
    options = parser.parse_args()
    paths = [Path(path).resolve().relative_to(ROOT) for path in options.paths]
    files = [f for p in paths for f in (sorted((ROOT / p).rglob("*.py")) or [ROOT / p])]
    every = [mutant for file in files for mutant in mutants(file.relative_to(ROOT))]
    if options.count is not None and options.count < len(every):
        chosen = random.Random(options.seed).sample(range(len(every)), options.count)
        every = [every[index] for index in sorted(chosen)]
    if options.list:
        print(*every, sep="\n")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return _try(every, Path(folder))


def _try(every: list[Mutant], folder: Path) -> int:
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    import torch  # noqa: F401, once for all

    for name in ("cyclegan_cli", "tests", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (path for path in ROOT.glob("[!.]*") if path.is_file()):
        shutil.copy(file, folder)
    limits: dict[tuple[str, ...], float] = {}
    survivors = 0
    for number, mutant in enumerate(every, 1):
        tests = tuple(tests_of(mutant.path))
        if tests not in limits:
            before = time.monotonic()
            if not passes(tests, folder, 1200):
                sys.exit(f"{tests} fail without any change:\n{(folder / 'log').read_text()}")
            limits[tests] = 20 + 3 * (time.monotonic() - before)
        path = folder / mutant.path
        source = path.read_bytes()
        path.write_bytes(source[: mutant.start] + mutant.after.encode() + source[mutant.stop :])
        survived = passes(tests, folder, limits[tests])
        path.write_bytes(source)
        survivors += survived
        verdict = "SURVIVED" if survived else "noticed "
        print(f"[{number}/{len(every)}] {verdict} {mutant}", flush=True)
    print(f"{survivors} of {len(every)} changes survived")
    return 0


if __name__ == "__main__":
    sys.exit(main())
