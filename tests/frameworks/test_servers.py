"""Each example under its real server with three workers: after SIGTERM the files say what the rows say.

`make test-frameworks` has all frameworks; elsewhere those that are not installed are skipped.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from sqlalchemy import MetaData, create_engine

from eventbus.trials.chain import Mirror
from eventbus.trials.chaos import differences, filed, rows
from tests.support.nodes.base import free_port

pytestmark = pytest.mark.filterwarnings("default")  # what frameworks use of SQLAlchemy is theirs to mend

ROOT: Final = Path(__file__).parents[2]
PLACE: Final = "examples.frameworks"
COUNT: Final = 30
PATIENCE: Final = 90.0
"""Seconds for what takes one or two on an idle machine."""
UVICORN: Final = ("uvicorn", "--workers", "3", "--host", "127.0.0.1", "--port", "{port}")
SERVERS: Final = {
    "fastapi_async": (*UVICORN, f"{PLACE}.fastapi_async:app"),
    "fastapi_sync": (*UVICORN, f"{PLACE}.fastapi_sync:app"),
    "litestar_alchemy": (*UVICORN, f"{PLACE}.litestar_alchemy:app"),
    "flask_factory": ("gunicorn", "-w", "3", "-b", "127.0.0.1:{port}", f"{PLACE}.flask_factory:create_app()"),
}


class Stage:
    """A database with the tables of one example, a broker, and the mirror's directory."""

    def __init__(self, name: str, directory: Path) -> None:
        self.module: Any = import_module(f"{PLACE}.{name}")
        self.database = f"sqlite:///{directory / 'crm.sqlite3'}"
        self.mirror = Mirror(directory)
        self.mirror.prepare()
        self.directory = directory
        driver = "sqlite+aiosqlite" if hasattr(self.module, "AsyncSession") else "sqlite"
        self.environment = self.mirror.environment(
            PYTHONPATH=str(ROOT), PYTHONUNBUFFERED="1", CRM_DATABASE=self.database.replace("sqlite", driver, 1)
        )
        engine = create_engine(self.database)
        metadata: MetaData = self.module.Contact.metadata
        metadata.create_all(engine)
        engine.dispose()

    @property
    def models(self) -> Any:
        return self.module.Contact.metadata if not hasattr(self.module, "Base") else self.module.Base

    def run(self, *arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=self.directory, env=self.environment, capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    @contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A server; ended by SIGTERM, after which it has nothing bad to tell."""
        log = self.directory / f"{arguments[0]}.log"
        with (
            log.open("w") as output,
            subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=self.directory, env=self.environment, stdout=output, stderr=output, text=True,
            ) as process,
        ):  # fmt: skip
            try:
                yield process
                process.send_signal(signal.SIGTERM)
                assert process.wait(PATIENCE) in (0, -signal.SIGTERM), log.read_text()
            finally:
                process.kill()
        assert "Traceback" not in log.read_text(), log.read_text()

    def authors(self) -> dict[str, str | None]:
        """Who is told, in the files, of each contact by its name; the files say what the rows do."""
        in_files, in_rows = filed(self.mirror.drain()), rows(self.database, self.models)
        assert differences(in_rows, in_files) == []
        return {fields["name"]: fields["last_author"] for fields in in_files.values()}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


def add(port: int, number: int) -> bool:
    """Whether the server has taken one contact; every third comes from nobody."""
    headers = {"X-User": f"u{number}"} if number % 3 else {}
    request = Request(f"http://127.0.0.1:{port}/contacts/n{number}", method="POST", headers=headers)
    try:
        with urlopen(request, timeout=PATIENCE) as answer:
            return bool(answer.status < 300)
    except URLError as error:
        if isinstance(error.reason, ConnectionRefusedError):
            return False
        raise


def expected(count: int = COUNT) -> dict[str, str | None]:
    return {f"n{number}": f"u{number}" if number % 3 else None for number in range(count)}


@pytest.mark.parametrize("name", SERVERS)
def test_a_web_service_with_three_workers(name: str, tmp_path: Path) -> None:
    for needed in {"fastapi": ("fastapi", "uvicorn"), "litestar": ("litestar", "advanced_alchemy", "uvicorn")}.get(
        name.partition("_")[0], ("flask_sqlalchemy", "gunicorn")
    ):
        pytest.importorskip(needed)
    stage, port = Stage(name, tmp_path), free_port()
    with stage.started(*(each.format(port=port) for each in SERVERS[name])):
        until(lambda: add(port, 0))
        with ThreadPoolExecutor(6) as threads:
            assert all(threads.map(lambda number: add(port, number), range(1, COUNT)))
    assert stage.authors() == expected()


def test_a_command_as_cron_runs_it(tmp_path: Path) -> None:
    pytest.importorskip("typer")
    stage = Stage("typer_import", tmp_path)
    stage.run(f"{PLACE}.typer_import", "n0", "n1")
    stage.run(f"{PLACE}.typer_import", "n2", "--author", "ann")
    assert stage.authors() == {"n0": "cron", "n1": "cron", "n2": "ann"}


def test_sqlmodel(tmp_path: Path) -> None:
    pytest.importorskip("sqlmodel")
    stage = Stage("sqlmodel_service", tmp_path)
    stage.run(f"{PLACE}.sqlmodel_service", "n0", "n1")
    assert stage.authors() == {"n0": "import", "n1": "import"}


def test_celery_with_three_children(tmp_path: Path) -> None:
    pytest.importorskip("celery")
    stage = Stage("celery_tasks", tmp_path)
    folder = tmp_path / "tasks"
    folder.mkdir()
    stage.environment["CELERY_BROKER"] = "filesystem://"
    app = stage.module.app
    options = {"data_folder_in": str(folder), "data_folder_out": str(folder), "control_folder": str(folder)}
    app.conf.broker_url, app.conf.broker_transport_options = "filesystem://", options
    (tmp_path / "celeryconfig.py").write_text(f"broker_transport_options = {options!r}\n")
    stage.environment["PYTHONPATH"] += os.pathsep + str(tmp_path)
    worker = ("celery", "-A", f"{PLACE}.celery_tasks", "--config", "celeryconfig", "worker", "--concurrency", "3")
    with stage.started(*worker, "--without-gossip", "--without-mingle"):
        for number in range(COUNT):
            stage.module.add.delay(f"n{number}", f"u{number}")
        until(lambda: len(rows(stage.database, stage.models)) == COUNT)
    assert stage.authors() == {f"n{number}": f"u{number}" for number in range(COUNT)}


def asked(port: int, query: str, **parameters: str) -> Any:
    """What Datasette answers to one of the queries of the example; None while it does not."""
    address = f"http://127.0.0.1:{port}/state/{query}.json?{urlencode({**parameters, '_shape': 'array'})}"
    try:
        with urlopen(address, timeout=PATIENCE) as answer:
            return json.load(answer)
    except URLError as error:
        if isinstance(error.reason, ConnectionRefusedError):
            return None
        raise


def test_datasette_shows_records_beside_a_running_mirror(tmp_path: Path) -> None:
    pytest.importorskip("datasette")
    pytest.importorskip("typer")
    stage, port = Stage("typer_import", tmp_path), free_port()
    state = stage.mirror.data_dir / ".eventbus/state.sqlite3"
    settings = ("--metadata", str(ROOT / "examples/datasette/metadata.yaml"), "--port", str(port))

    def names(**parameters: str) -> set[str]:
        return {json.loads(each["fields"])["name"] for each in asked(port, "records", **parameters) or ()}

    with stage.started("consumers.json_mirror"):
        stage.run(f"{PLACE}.typer_import", "n0", "n1", "--author", "ann")
        until(state.exists)
        with stage.started("datasette", "serve", str(state), *settings):
            until(lambda: names(entity="crm/contact") == {"n0", "n1"})
            stage.run(f"{PLACE}.typer_import", "n2")
            until(lambda: names(entity="crm/contact") == {"n0", "n1", "n2"})
            (entity,) = asked(port, "entities")
            assert (entity["entity"], entity["records"], entity["deleted"]) == ("crm/contact", 3, 0)
            assert names(entity="crm/nothing") == set()
            (found,) = asked(port, "search", text="N2")
            fields = {
                each["field"]: each["value"] for each in asked(port, "record", entity="crm/contact", pk=found["pk"])
            }
            assert fields == json.loads(found["fields"])
            assert asked(port, "deleted") == []
    stage.mirror.call("consumers.json_mirror", "--verify")
    assert stage.authors() == {"n0": "ann", "n1": "ann", "n2": "cron"}
