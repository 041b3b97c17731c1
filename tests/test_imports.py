"""Which package may import which, read from every import; and the cheap start of the program."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "cyclegan_cli"
PACKAGES = ("cli", "engine", "media", "painting", "report", "styles")
EVERYWHERE = {
    *("errors", "settings", "files", "machine", "randomness"),
}
# Who may import what besides EVERYWHERE and the own package: a package, or one module of one.
ALLOWED: dict[str, set[str]] = {
    "cli": {"painting", "engine", "styles", "media", "report"},
    "painting": {"engine.layers", "engine.weights", "engine.device", "engine.grain"}
    | {"engine.fast", "media"},
    "painting.bands": {"engine.distributed"},
    "painting.by_torch": {"engine.networks"},  # what is no layer of theirs
    "engine": set(),
    "engine.training": {"media.dataset"},
    "media": set(),
    "report": {"engine.run"},  # it reads a run's folder
    "styles": {"engine.weights", "engine.checkpoint"},  # weights, through the engine
    "styles.convert": {"engine.networks", "engine.layers"},  # foreign weights become a generator
    "styles.onnxformat": {"engine.layers", "engine.grain"},  # a generator becomes a graph
}
HEAVY = ("torch", "torchvision", "numpy", "PIL", "imageio", "rich.live", "tensorboard")


def imports(tree: ast.AST, module: str) -> set[str]:
    """Every module that the source names, inside functions too, as absolute dotted names.

    ``from a import b`` gives both ``a`` and ``a.b``: ``b`` may be a module.
    """
    package = module.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def package_of(module: str) -> str:
    """``cyclegan_cli.engine.history`` -> ``engine``; a file at the top is its own package."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def forbidden_imports(source: str, module: str) -> set[str]:
    """The imports of ``module`` that the table does not allow."""
    package, short = package_of(module), module.removeprefix("cyclegan_cli.")
    allowed = ALLOWED.get(package, set()) | ALLOWED.get(short, set())
    bad = set()
    for name in imports(ast.parse(source), module):
        target = name.removeprefix("cyclegan_cli.")
        top = name.split(".")[0]
        if top == "click":  # typer brings it; there is one way to the command line
            bad.add(name)
        if top != "cyclegan_cli":
            continue
        parts = target.split(".")
        if parts[0] == "cli" and package not in ("cli", "__main__"):
            bad.add(name)
        elif parts[0] in PACKAGES and package in PACKAGES and parts[0] != package:
            within = {".".join(parts[: n + 1]) for n in range(len(parts))}
            # ``from cyclegan_cli.engine import networks`` names engine, and engine.networks.
            opens = any(one.startswith(f"{target}.") for one in allowed)
            if not within & allowed and not opens:
                bad.add(name)
        elif parts[0] in PACKAGES and package in EVERYWHERE:
            bad.add(name)
    return bad


def name_of(node: ast.AST) -> str:
    """``os.environ.get`` of the expression that says so; empty for anything else."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def speaks(source: str) -> set[str]:
    """What prints, asks or ends the program."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = name_of(node.func)
            if name in ("print", "input", "exit", "quit", "breakpoint", "sys.exit", "os._exit"):
                found.add(name)
        elif isinstance(node, ast.Attribute):
            if name_of(node) in ("sys.stdout", "sys.stderr", "sys.stdin", "sys.argv"):
                found.add(name_of(node))
        elif isinstance(node, ast.Raise) and node.exc is not None:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if name_of(raised) in ("SystemExit", "KeyboardInterrupt"):
                found.add(name_of(raised))
        elif isinstance(node, ast.ImportFrom) and node.module == "sys":
            found |= {f"sys.{alias.name}" for alias in node.names}
    return found


def reads_environment(source: str) -> set[str]:
    """What reads or writes environment variables."""
    names = ("environ", "environb", "getenv", "getenvb", "putenv", "unsetenv")
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and name_of(node) in {f"os.{n}" for n in names}:
            found.add(name_of(node))
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            found |= {f"os.{alias.name}" for alias in node.names if alias.name in names}
    return found


FILES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def test_the_whole_package_is_read() -> None:
    assert {package_of(name) for name in FILES} >= {
        *PACKAGES,
        "errors",
        "settings",
        "files",
    }


@pytest.mark.parametrize("module", FILES)
def test_imports_follow_the_table(module: str) -> None:
    name = module.removesuffix(".__init__") if module.count(".") > 1 else module
    assert forbidden_imports(FILES[module].read_text("utf-8"), name) == set()


@pytest.mark.parametrize("module", [m for m in FILES if package_of(m) not in ("cli", "__main__")])
def test_only_the_command_line_prints_asks_and_exits(module: str) -> None:
    assert speaks(FILES[module].read_text("utf-8")) == set()


@pytest.mark.parametrize(
    "module", [m for m in FILES if package_of(m) not in ("cli", "machine", "files", "styles")]
)
def test_only_files_machine_and_styles_read_the_environment(module: str) -> None:
    assert reads_environment(FILES[module].read_text("utf-8")) == set()


def cycle(edges: dict[str, set[str]]) -> list[str]:
    """Modules that import one another in a circle; empty where there is none."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module not in done:
            for target in sorted(edges[module]):
                if found := visit(target, [*path, module]):
                    return found
            done.add(module)
        return []

    return next((found for module in sorted(edges) if (found := visit(module, []))), [])


def test_no_module_imports_itself_through_others() -> None:
    """Imports inside functions count, those for type checkers alone do not."""
    edges: dict[str, set[str]] = {}
    for name, path in FILES.items():
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and name_of(node.test) == "TYPE_CHECKING":
                node.body = [ast.Pass()]
        edges[name] = {found for found in imports(tree, name) if found in FILES} - {name}
    assert cycle(edges) == []


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )


def test_the_app_starts_without_the_heavy_libraries() -> None:
    code = (
        "import sys; import cyclegan_cli.cli.app; "
        f"print(*[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = run_python(code)
    assert done.stdout.strip() == ""
    assert done.stderr == ""


def test_painting_without_pytorch_imports_none_of_it() -> None:
    apart = {"by_torch", "bands"}  # another way, and processes that are joined by PyTorch
    modules = [name for name in FILES if package_of(name) == "painting"]
    modules = [name for name in modules if name.rpartition(".")[2] not in {*apart, "__init__"}]
    modules += ["cyclegan_cli.api", "cyclegan_cli.engine.weights", "cyclegan_cli.engine.layers"]
    code = f"import sys, {', '.join(modules)}; print(*{{'torch', 'imageio'}} & {{*sys.modules}})"
    done = run_python(code)
    assert done.stdout.strip() == ""
