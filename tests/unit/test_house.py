"""The rules of the house that a reader relies on, read from the source itself: layers, purity, one place for subjects."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "bus", "coordinator", "agents", "console")
FILES = sorted(file for package in PACKAGES for file in (ROOT / package / "agentexecutor").rglob("*.py"))

ASYNCHRONOUS = "shell"
"""The folder of the coordinator whose files may know a clock, a socket and an event loop. All others are pure."""

IMPURE = {
    "anyio",
    "asyncio",
    "logging",
    "nats",
    "opentelemetry",
    "os",
    "random",
    "secrets",
    "socket",
    "subprocess",
    "threading",
    "time",
    "uuid",
}
IMPURE_NAMES = {"new_id", "new_boot"}
"""Functions of `agentexecutor.schemas.names` that ask the operating system."""

PURE = [file for file in FILES if "coordinator" in file.parts and ASYNCHRONOUS not in file.relative_to(ROOT).parts]

WORDS = "submit|from|ask|offer|progress|bid|blob|to|call|task|lease|member|watch|new|in"
SUBJECT = re.compile(rf"(^|\{{}}\.|ae\.v1\.)({WORDS})\.(\{{}}|[*>])|^ae\.v1\.")


def label(file: Path) -> str:
    return str(file.relative_to(ROOT))


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts[1:]
    return ".".join(part for part in parts if part != "__init__")


def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imported(tree: ast.Module) -> Iterator[tuple[str, list[str]]]:
    """Every module that is imported anywhere in the file when it runs, with the names taken from it."""
    for_types = {id(part) for node in ast.walk(tree) if is_type_checking(node) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", [alias.name for alias in node.names]


def impurities(tree: ast.Module) -> Iterator[str]:
    """What a pure file must not hold."""
    for module, names in imported(tree):
        if module.split(".")[0] in IMPURE or module.startswith("agentexecutor.bus") or "bus" in names:
            yield f"imports {module}"
        yield from (f"imports {name}" for name in names if name in IMPURE_NAMES)
    for node in ast.walk(tree):
        if isinstance(node, (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)):
            yield f"is asynchronous in line {node.lineno}"
        if isinstance(node, ast.Attribute) and node.attr in {"now", "utcnow", "today"} and "date" in ast.unparse(node.value):
            yield f"reads the clock in line {node.lineno}"


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every string and f-string that is no docstring, the holes of f-strings as {}."""
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node) if part is not node}
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in inside or id(node) in prose:
            continue
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def test_the_walk_sees_the_house() -> None:
    assert {file.relative_to(ROOT).parts[0] for file in FILES} == set(PACKAGES)
    assert "coordinator/agentexecutor/coordinator/machine.py" in {label(file) for file in PURE}


@pytest.mark.parametrize("file", FILES, ids=label)
def test_every_module_says_what_it_owns(file: Path) -> None:
    assert ast.get_docstring(tree_of(file)), "begin the module with a docstring: what it owns, what it must not know"


@pytest.mark.parametrize("file", FILES, ids=label)
def test_every_name_in_all_exists(file: Path) -> None:
    module = importlib.import_module(module_name(file))
    names = getattr(module, "__all__", [])
    assert len(names) == len(set(names)), "a name stands twice in __all__"
    assert [name for name in names if not hasattr(module, name)] == []


@pytest.mark.parametrize("file", [file for file in FILES if file.name != "subjects.py"], ids=label)
def test_subjects_are_named_in_one_file(file: Path) -> None:
    found = [(line, text) for line, text in texts(tree_of(file)) if SUBJECT.search(text)]
    assert found == [], "build subjects with agentexecutor.schemas.subjects"


def test_the_subject_pattern_finds_subjects() -> None:
    source = 'a = f"{prefix}.lease.{shard}"\nb = "ae.v1.offer.*"\nc = f"{p}.task.>"\nd = f"{x} is in. {y}"\ne = "ae.v1"\n'
    assert [line for line, text in texts(ast.parse(source)) if SUBJECT.search(text)] == [1, 2, 3]


@pytest.mark.parametrize("file", PURE, ids=label)
def test_the_coordinator_is_pure_but_for_its_shell(file: Path) -> None:
    assert list(impurities(tree_of(file))) == []


def test_purity_is_seen() -> None:
    source = """
import time
if TYPE_CHECKING:
    import asyncio
from agentexecutor.bus import log
from agentexecutor.schemas.names import new_id
async def f(): datetime.now()
"""
    assert list(impurities(ast.parse(source))) == [
        "imports time",
        "imports agentexecutor.bus",
        "imports new_id",
        "is asynchronous in line 7",
        "reads the clock in line 7",
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_sub_packages_are_typed_parts_of_one_namespace(package: str) -> None:
    root = ROOT / package
    assert (root / "agentexecutor" / package / "py.typed").is_file()
    assert (root / "agentexecutor" / package / "__init__.py").is_file()
    assert not (root / "__init__.py").exists(), "the top-level folder is a source root, not a package"
    assert not (root / "agentexecutor" / "__init__.py").exists(), "the namespace has no __init__.py, else one root hides the others"


IN_A_TEST = "import pytest\n\n\ndef test_it():\n    pytest.skip('because')\n"
IN_A_MODULE = "import pytest\n\npytest.importorskip('no_such_module')\n"


@pytest.mark.parametrize(("source", "line"), [(IN_A_TEST, "1 failed"), (IN_A_MODULE, "1 error")], ids=["test", "module"])
def test_ae_ci_makes_a_skip_a_failure(tmp_path: Path, source: str, line: str) -> None:
    test = tmp_path / "test_skips.py"
    test.write_text(source, encoding="utf-8")
    options = ["-c", os.devnull, "--rootdir", str(tmp_path), "-p", "conftest", "-p", "no:cacheprovider"]
    for strict, expected in (("0", "1 skipped"), ("1", line)):
        environment = {**os.environ, "AE_CI": strict, "PYTHONPATH": str(ROOT / "tests")}
        command = [sys.executable, "-m", "pytest", *options, str(test)]
        run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert expected in run.stdout, run.stdout + run.stderr
