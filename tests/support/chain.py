"""The whole chain for tests: services and mirrors as processes of their own, a watcher on the broker, the files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Self

from eventbus import transports
from eventbus.events import naming
from eventbus.events.envelope import Event, decode
from tests.support.committing import eventually

ROOT: Final = Path(__file__).parents[2]
PATIENCE: Final = 60.0
"""Seconds for what takes a fraction of one on an idle machine."""


class Place:
    """A directory to live in, with a broker and names that services and mirrors find in their environment.

    With no argument but the directory nothing is set: all defaults, the embedded broker in the working directory.
    """

    def __init__(self, directory: Path, *, url: str = "", name: str = "") -> None:
        self.directory = directory
        self.url = url or f"sqlite:///{directory / 'eventbus-broker.sqlite3'}"
        self.exchange = name or naming.DEFAULT_EXCHANGE
        self.queue = f"{name}-mirror" if name else naming.DEFAULT_QUEUE
        self.data_dir = directory / "data"
        self.environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("EVENTBUS_", "PYTEST_")) and key not in ("DATA_DIR", "DATABASE_URL")
        }
        self.environment["PYTHONPATH"] = str(ROOT)
        if url:
            self.environment["EVENTBUS_URL"] = url
        if name:
            self.environment |= {"EVENTBUS_EXCHANGE": self.exchange, "EVENTBUS_QUEUE": self.queue}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        if self.url.startswith("amqp"):
            with transports.connection(self.url) as connection:
                channel: Any = connection.channel()
                for queue in (self.queue, naming.dead_letter_queue(self.queue)):
                    channel.queue_delete(queue)
                channel.exchange_delete(self.exchange)

    def run(self, code: str, *, code_expected: int = 0, **environment: str) -> str:
        """What a Python process printed that ran the code to its end."""
        return self.command([sys.executable, "-W", "error", "-c", textwrap.dedent(code)], code_expected, **environment)

    def command(self, command: Sequence[str], code_expected: int = 0, **environment: str) -> str:
        """What a command printed; of one that is to fail, what it complained of."""
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )
        assert done.returncode == code_expected, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stderr if code_expected else done.stdout

    def start(self, code: str, **environment: str) -> Service:
        """A Python process that runs the code; it is killed at the end if it still lives."""
        service = Service(self.directory, textwrap.dedent(code), self.environment | environment)
        self._stack.callback(service.kill)
        return service

    def mirror(self, **environment: str) -> Mirror:
        """A mirror that consumes by now, on `data` in the directory; it is killed at the end if it still lives."""
        mirror = Mirror(self.directory, self.environment | environment)
        self._stack.callback(mirror.kill)
        mirror.wait_until_it_consumes()
        return mirror

    def watch(self) -> Watch:
        """Sees every event from now on."""
        watch = Watch(self.url, self.exchange)
        self._stack.callback(watch.close)
        return watch

    def records(self, path: str) -> dict[Any, dict[str, Any]]:
        """Fields by primary key of all files in a directory like `crm/contact`; a composite key is a tuple."""
        found = {}
        for file in (self.data_dir / path).glob("*.json"):
            try:
                document = json.loads(file.read_bytes())
            except FileNotFoundError:
                continue  # deleted meanwhile
            key = document["pk"]
            found[tuple(key) if isinstance(key, list) else key] = document["fields"]
        return found

    def eventually_records(self, path: str, expected: Mapping[Any, Any]) -> None:
        """Return once the files of that directory are exactly these."""
        try:
            eventually(lambda: self.records(path) == expected, PATIENCE)
        except AssertionError:
            assert self.records(path) == expected
            raise


class Service:
    """A Python process that is spoken to, a line at a time."""

    def __init__(self, directory: Path, code: str, environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code],
            cwd=directory,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def lives(self) -> bool:
        return self.process.poll() is None

    def line(self) -> str:
        """The next line that it says; empty once it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self, text: str = "") -> None:
        """Give it a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()

    def end(self, code_expected: int = 0) -> str:
        """Wait for its end; the rest of what it said."""
        rest, _ = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == code_expected
        return rest

    def kill(self) -> None:
        """As `kill -9`."""
        if self.lives:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            if not pipe.closed:
                pipe.close()


class Mirror:
    """`python -m consumers.json_mirror`."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._log = directory / f"mirror-{time.monotonic_ns()}.log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "consumers.json_mirror"],
                cwd=directory,
                env=dict(environment),
                stderr=log,
            )

    def wait_until_it_consumes(self) -> None:
        """So that what is published now finds its queue."""

        def consumes() -> bool:
            assert self.process.poll() is None, self.log
            return '"consuming"' in self.log

        eventually(consumes, PATIENCE)

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text()

    def kill(self) -> None:
        """As `kill -9`."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """As Kubernetes does; it ends in order."""
        self.process.terminate()
        assert self.process.wait(timeout=PATIENCE) == 0, self.log


class Watch:
    """A queue of its own, bound to everything; `events` are all that came so far."""

    def __init__(self, url: str, exchange: str) -> None:
        self._connection: Any = transports.connection(url)
        self._queue = f"watch-{time.monotonic_ns()}"
        self._events: list[Event] = []
        channel = self._channel = self._connection.channel()
        channel.exchange_declare(exchange=exchange, type="topic", durable=True, auto_delete=False)
        channel.queue_declare(queue=self._queue, durable=True, auto_delete=False)
        channel.queue_bind(queue=self._queue, exchange=exchange, routing_key="#")

    def events_until(self, key: Any) -> list[Event]:
        """What came since the last call, up to an event of the record with this primary key, which is left out.

        An exchange keeps the order of one publisher, so nothing published before that event is still to come.
        """
        deadline = time.monotonic() + PATIENCE
        found: list[Event] = []
        while time.monotonic() < deadline:
            message = self._channel.basic_get(queue=self._queue, no_ack=True)
            if message is None:
                time.sleep(0.01)
                continue
            event = decode(bytes(message.body) if not isinstance(message.body, str) else message.body.encode())
            if event.pk == key:
                return found
            found.append(event)
        raise AssertionError(f"no event of {key!r} within {PATIENCE} s; there were {found}")

    def close(self) -> None:
        """Take the queue away."""
        self._channel.queue_delete(queue=self._queue)
        self._connection.release()


@contextmanager
def reading_all(directory: Path) -> Iterator[list[int]]:
    """Meanwhile a thread parses every file below, again and again; raises at the end if one was not whole JSON.

    What is yielded holds, at the end, how many times a file was read.
    """
    stop, reads, broken = threading.Event(), [0], list[str]()

    def read() -> None:
        while not stop.wait(0.05):
            for path in directory.glob("[!.]*/*/*.json"):
                try:
                    document = json.loads(path.read_bytes())
                    assert document.keys() == {"fields", "model", "pk", "version"}
                    reads[0] += 1
                except FileNotFoundError:
                    continue  # deleted since it was listed
                except (ValueError, AssertionError) as error:
                    broken.append(f"{path}: {error}")

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield reads
    finally:
        stop.set()
        thread.join()
    assert not broken, broken[:3]
