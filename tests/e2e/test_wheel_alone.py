"""The wheel in an environment of its own: README's first steps, and a typed project that two type checkers read."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.committing import eventually

ROOT: Final = Path(__file__).parents[2]
DESK: Final = ROOT / "tests/projects/desk"


OURS: Final = ("EVENTBUS_", "PYTEST_", "PYTHON", "DATA_DIR", "DATABASE_URL")
PATIENCE: Final = 120.0


def outside() -> dict[str, str]:
    """The environment of somebody who has none of our settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS)}


def done(
    command: Sequence[str | Path], directory: Path, typed: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    env = outside() | environment
    return subprocess.run(
        command, cwd=directory, env=env, input=typed, capture_output=True, text=True, timeout=600, check=False
    )


def must(command: Sequence[str | Path], directory: Path, **environment: str) -> str:
    result = done(command, directory, **environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel, what it requires, and pytest."""
    directory = tmp_path_factory.mktemp("typed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    must([*pip, "wheel", "--no-deps", "--wheel-dir", directory, ROOT], directory)
    venv.create(directory / "venv")
    made = directory / "venv/bin/python"
    wheel = next(directory.glob("*.whl"))
    must([*pip, "--python", made, "install", wheel, "pytest"], directory)
    return made


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """The project, at a place of its own."""
    return shutil.copytree(DESK, tmp_path / "desk")


def wrong_lines() -> list[int]:
    lines = (DESK / "mistakes.py").read_text().splitlines()
    return [number for number, line in enumerate(lines, 1) if line.endswith("# wrong")]


@pytest.mark.slow
def test_its_own_tests_pass(python: Path, desk: Path) -> None:
    assert "3 passed" in must([python, "-m", "pytest", "-q", "-p", "no:cacheprovider"], desk)


@pytest.mark.slow
def test_its_consumer_reads_what_it_publishes(python: Path, desk: Path) -> None:
    broker = {"EVENTBUS_URL": f"sqlite:///{desk}/broker.sqlite3"}
    code = (
        "from desk.db import Base, engine; Base.metadata.create_all(engine)\n"
        "from desk.service import *\n"
        "open_ticket('a', author='ann'); open_ticket('b', author=None); close_all('bob', 'summer')\n"
        "open_ticket('c', author=None)"
    )
    reader = [python, "-m", "desk.reader"]
    assert must(reader, desk, EVENTBUS_QUEUE="states", **broker) == "{}\n", "its queue is there now"
    must([python, "-W", "error", "-c", code], desk, **broker)
    assert must(reader, desk, EVENTBUS_QUEUE="states", **broker) == "{'closed': 2, 'open': 1}\n"


@pytest.mark.slow
def test_mypy_finds_the_project_clean_and_its_mistakes_wrong(python: Path, desk: Path) -> None:
    pytest.importorskip("mypy")
    mypy = [sys.executable, "-m", "mypy", "--python-executable", python, "--no-error-summary"]
    assert must(mypy, desk) == ""
    found = done([*mypy, "--output", "json", "--strict", "mistakes.py"], desk)
    told = [json.loads(line) for line in found.stdout.splitlines()]
    assert sorted({each["line"] for each in told if each["severity"] == "error"}) == wrong_lines(), found.stdout


@pytest.mark.slow
def test_pyright_finds_the_project_clean_and_its_mistakes_wrong(python: Path, desk: Path) -> None:
    pytest.importorskip("pyright")
    pyright = [sys.executable, "-m", "pyright", "--pythonpath", python, "--outputjson"]
    told = json.loads(done(pyright, desk).stdout)
    assert told["generalDiagnostics"] == []
    assert told["summary"]["filesAnalyzed"] >= 5
    settings = json.dumps(
        {"include": ["mistakes.py"], "typeCheckingMode": "basic", "reportAttributeAccessIssue": "error"}
    )
    (desk / "pyrightconfig.json").write_text(settings)
    told = json.loads(done(pyright, desk).stdout)
    errors = [each for each in told["generalDiagnostics"] if each["severity"] == "error"]
    assert sorted({each["range"]["start"]["line"] + 1 for each in errors}) == wrong_lines(), errors


# -- README ------------------------------------------------------

README: Final = (ROOT / "README.md").read_text()


@contextmanager
def mirror(python: Path, directory: Path) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """`eventbus mirror` at work; gives what reads its files."""

    def fields() -> list[dict[str, Any]]:
        return [json.loads(path.read_text())["fields"] for path in (directory / "data/crm/contact").glob("*.json")]

    command = [python.with_name("eventbus"), "mirror", "--data-dir", "data"]
    with (
        (directory / "log").open("w") as log,
        subprocess.Popen(command, cwd=directory, env=outside(), stdout=log, stderr=log) as process,
    ):
        try:
            yield fields
            process.terminate()
            assert process.wait(PATIENCE) == 0, (directory / "log").read_text()
        finally:
            process.kill()


@pytest.mark.slow
def test_the_first_steps_of_the_readme(python: Path, tmp_path: Path) -> None:
    program = re.search(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert program is not None
    (tmp_path / "service.py").write_text(program[1])
    change, delete = re.findall(r"^>>> (.*)$", README, re.MULTILINE)

    def type_in(line: str) -> None:
        """In `python -i service.py`, which adds one more contact first."""
        result = done([python, "-i", "service.py"], tmp_path, f"{line}\n\n")
        assert result.returncode == 0, result.stderr
        assert "Error" not in result.stderr, result.stderr

    with mirror(python, tmp_path) as files:
        must([python, "service.py"], tmp_path)
        eventually(lambda: len(files()) == 1, PATIENCE)
        (first,) = files()
        assert (first["name"], first["phone"], first["last_author"]) == ("Hélène", "+32 2 555 12 12", "ann")
        type_in(change)
        eventually(lambda: len(files()) == 2, PATIENCE)
        eventually(lambda: "+32 2 555 00 00" in {each["phone"] for each in files()}, PATIENCE)
        type_in(delete)
        eventually(lambda: first["id"] not in {each["id"] for each in files()}, PATIENCE)
        eventually(lambda: len(files()) == 2, PATIENCE)
