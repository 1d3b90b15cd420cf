"""The package as users get it: built, installed beside a project of theirs, and used there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from zipfile import ZipFile

import pytest

ROOT: Final = Path(__file__).parents[2]
PROJECTS: Final = ROOT / "tests" / "projects"

Shop = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, as a release builds it."""
    directory = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(directory), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(directory.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A directory with the wheel's content, metadata and entry points included."""
    directory = wheel.parent / "installed"
    with ZipFile(wheel) as archive:
        archive.extractall(directory)
    return directory


@pytest.fixture
def shop(installed: Path, tmp_path: Path) -> Iterator[Shop]:
    """Runs pytest in a user's project, with the package from the wheel; returns what became of it."""
    project = tmp_path / "shop"
    shutil.copytree(PROJECTS / "shop", project)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("EVENTBUS_", "PYTEST_"))}

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", "-ra", *arguments],
            cwd=project,
            env={**kept, "PYTHONPATH": str(installed), **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    yield run
    shutil.rmtree(project)


def test_a_users_tests_assert_what_was_published_and_run_the_whole_chain(shop: Shop) -> None:
    done = shop()
    assert "3 passed, 1 skipped" in done.stdout, done.stdout + done.stderr
    assert "give --eventbus-chaos" in done.stdout


def test_a_failed_assertion_shows_what_was_published(shop: Shop) -> None:
    done = shop("-k", "an_order_is_published", SHOP_BUYER="bob")
    assert done.returncode == 1
    assert "0 events are order.created pk='o1' after={'buyer': 'ann'}, not 1" in done.stdout, done.stdout + done.stderr
    assert "shop.order.created pk='o1' before=None after={'id': 'o1', 'buyer': 'bob'}" in done.stdout


def test_chaos_finds_nothing_lost(shop: Shop) -> None:
    done = shop("--eventbus-chaos", "-k", "kill and (after_commit or before_delete)")
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_chaos_finds_what_is_published_by_hand_after_the_commit(shop: Shop) -> None:
    done = shop("--eventbus-chaos", "-k", "kill and after_commit", SHOP_BY_HAND="yes")
    assert "1 failed" in done.stdout, done.stdout + done.stderr
    assert "killed at after_commit, 1 records are not what was committed" in done.stdout
    assert "the row has no file" in done.stdout


def test_the_plugin_costs_nothing_where_it_is_not_used(installed: Path, tmp_path: Path) -> None:
    """No package of ours or of SQLAlchemy is loaded, but the plugin itself."""
    (tmp_path / "test_nothing.py").write_text(
        "import sys\n"
        "def test_nothing():\n"
        "    assert 'eventbus.pytest_plugin' in sys.modules\n"
        "    heavy = [name for name in sys.modules if name.partition('.')[0] in ('sqlalchemy', 'kombu', 'orjson')]\n"
        "    ours = [name for name in sys.modules if name.startswith('eventbus.')]\n"
        "    assert (heavy, ours) == ([], ['eventbus.pytest_plugin'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--rootdir", ".", "test_nothing.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
