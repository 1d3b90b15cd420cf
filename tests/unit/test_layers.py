"""The shape of the packages: imports go down, importing does nothing else."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("eventbus", "consumers")
OPTIONAL = {
    "aiosqlite",
    "asyncpg",
    "docker",
    "flask",
    "opentelemetry",
    "prometheus_client",
    "psycopg",
    "pymysql",
    "redis",
}
"""What no user must have installed who does not ask for it."""

WIRE_SIDE = {
    "backoff",
    "commands",
    "comparison",
    "errors",
    "events",
    "inspection",
    "monitoring",
    "process",
    "redaction",
    "settings",
    "transports",
}
"""The modules of eventbus that a consumer may know; a program of yours that reads the events needs no more."""

_IMPORT_EVERYTHING = """
import importlib, json, os, pkgutil, sys, threading

seen = []
def hook(event, arguments):
    if event.startswith("socket.") and event not in ("socket.__new__", "socket.gethostname"):
        seen.append(event)
    if event in ("sqlite3.connect", "subprocess.Popen", "os.fork"):
        seen.append(event)
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        seen.append(f"open {arguments[0]}")
sys.addaudithook(hook)

class Watched(dict):
    def __getitem__(self, name):
        self.watch(name)
        return super().__getitem__(name)
    def get(self, name, default=None):
        self.watch(name)
        return super().get(name, default)
    def watch(self, name):
        if str(name).startswith("EVENTBUS_") or name in ("DATA_DIR", "DATABASE_URL"):
            seen.append(f"environment {name}")
os.environ = Watched(os.environ)

sys.dont_write_bytecode = True
for package in sys.argv[1:]:
    root = importlib.import_module(package)
    for module in pkgutil.walk_packages(root.__path__, f"{package}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
print(json.dumps({
    "seen": seen,
    "threads": threading.active_count(),
    "modules": sorted({name.partition(".")[0] for name in sys.modules}),
}))
"""

_IMPORT_ONE = """
import importlib, json, sys
importlib.import_module(sys.argv[1])
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def python(code: str, *arguments: str) -> str:
    """Standard output of a fresh interpreter in the root of the repository."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def sources() -> list[Path]:
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return sorted(path for path in files if path.name != "__main__.py")


def reads_environment(tree: ast.AST) -> bool:
    return any(isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv") for node in ast.walk(tree))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_imports_go_down_the_layers_only() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]


def test_consumers_know_only_the_wire_side_of_eventbus() -> None:
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    modules = graph.find_descendants("consumers")
    known = {imported for module in modules for imported in graph.find_modules_directly_imported_by(module)}
    of_eventbus = {name.split(".")[1] for name in known if name.startswith("eventbus.")}
    assert of_eventbus <= WIRE_SIDE
    assert "eventbus" not in known


def test_importing_connects_to_nothing_starts_nothing_and_reads_no_setting() -> None:
    result = json.loads(python(_IMPORT_EVERYTHING, *PACKAGES))
    assert result["seen"] == []
    assert result["threads"] == 1
    assert set(result["modules"]) & OPTIONAL == set()


def test_a_consumer_does_without_sqlalchemy() -> None:
    """The mirror's image and memory need not carry the service side."""
    modules = json.loads(python(_IMPORT_ONE, "consumers.json_mirror.service"))
    assert "sqlalchemy" not in modules


def test_only_settings_and_entry_points_read_the_environment() -> None:
    readers = {relative(path) for path in sources() if reads_environment(ast.parse(path.read_text()))}
    entry_points = {
        "eventbus/cli.py",
        "eventbus/dumpdata.py",
        "eventbus/loaddata.py",
        "consumers/dead_letters.py",
        "consumers/json_mirror/health.py",
        "eventbus/trials/chain.py",  # hands it on to the processes that a test starts
        "eventbus/process/failpoints.py",  # the one exception, with its reason there
    }
    allowed = entry_points | {path for path in readers if path.endswith(("/settings.py", "/__main__.py"))}
    assert readers <= allowed


@pytest.mark.parametrize("path", sources(), ids=relative)
def test_every_module_says_what_it_holds(path: Path) -> None:
    text = path.read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text)), f"{path} has no docstring"


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_marked_as_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()
