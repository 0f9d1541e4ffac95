"""The size budget of the house: short functions, modules that fit in a head."""

from __future__ import annotations

import ast
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("runtime", "agents", "tools", "state", "configs")
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
LONGEST_FUNCTION = 60
LONGEST_MODULE = 500
LONGEST_TEST_MODULE = 600
MEDIAN_FUNCTION = 10


def functions(path: Path) -> list[tuple[str, int]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        (f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_no_function_is_longer_than_sixty_lines() -> None:
    assert [name for path in MODULES for name, length in functions(path) if length > LONGEST_FUNCTION] == []


def test_half_of_all_functions_have_ten_lines_or_fewer() -> None:
    assert median(length for path in MODULES for _, length in functions(path)) <= MEDIAN_FUNCTION


@pytest.mark.parametrize(("paths", "longest"), [(MODULES, LONGEST_MODULE), (TESTS, LONGEST_TEST_MODULE)])
def test_no_module_is_too_long(paths: list[Path], longest: int) -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    assert {name: length for name, length in lengths.items() if length > longest} == {}
