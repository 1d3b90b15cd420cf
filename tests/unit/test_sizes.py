"""Nothing larger than a screenful or two: modules, classes and functions, and what may be larger for now."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median
from typing import Final

ROOT: Final = Path(__file__).parents[2]
MODULE, CLASS, FUNCTION, MEDIAN = 350, 200, 40, 7
"""Lines at most; of a function those after its signature and docstring."""

EXCEPTIONS: Final = {
    "eventbus/transports/sqlite/channel.py": "kombu's channel has that many methods",
    "eventbus/transports/sqlite/channel.py Channel": "kombu's channel has that many methods",
}
"""What is larger, and why. Nothing joins this list without a reason; what shrinks leaves it."""

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def _sources() -> Iterator[tuple[str, str]]:
    for package in ("eventbus", "consumers"):
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text()


def _size(function: _Function) -> int:
    first = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - first[0].lineno + 1 if first else 0


@cache
def _larger() -> frozenset[str]:
    return frozenset(_found())


def _found() -> Iterator[str]:
    for name, text in _sources():
        if text.count("\n") > MODULE:
            yield name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and (node.end_lineno or 0) - node.lineno + 1 > CLASS:
                yield f"{name} {node.name}"
            if isinstance(node, _Function) and _size(node) > FUNCTION:
                yield f"{name} {node.name}"


def test_nothing_is_larger_than_can_be_read_at_once() -> None:
    assert sorted(_larger() - set(EXCEPTIONS)) == [], "split it by what changes for one reason"


def test_exceptions_are_what_they_say() -> None:
    assert sorted(set(EXCEPTIONS) - _larger()) == [], "small enough now: take it off the list"


def test_most_functions_are_short() -> None:
    functions = [node for _, text in _sources() for node in ast.walk(ast.parse(text)) if isinstance(node, _Function)]
    assert median(map(_size, functions)) <= MEDIAN
