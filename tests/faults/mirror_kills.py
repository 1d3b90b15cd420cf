"""kill -9 of the mirror, again and again, under load: `python -m tests.faults.mirror_kills --kills 200 [--url amqp://…]`.

All the while a reader parses every file. In the end every change the broker has confirmed is in the files, no file was
ever seen half written, no temporary file is left, and no good message is among the dead letters. `--restarts 20` ends
it by SIGTERM instead, with a prefetch of 50: what a quorum queue hands over again then comes in another order.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import click
import orjson

from consumers.base import ConsumerSettings
from eventbus.events.naming import dead_letter_queue
from tests.support.consuming import ready, remove
from tests.support.mirror_process import Load, MirrorProcess, Reader, drain, mirror_settings
from tests.support.mirroring import contents, unfinished


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it. Nothing is wrong if `wrong`, `faults` and `unfinished` are empty and `dead_letters` is 0."""

    sent: int
    read: int
    wrong: list[str]
    faults: list[str]
    unfinished: list[str]
    dead_letters: int

    @property
    def good(self) -> bool:
        return not (self.wrong or self.faults or self.unfinished or self.dead_letters)


End = Callable[[MirrorProcess], object]


def end_in_a_loop(settings: ConsumerSettings, data_dir: Path, times: int, end: End, seed: int = 1) -> Outcome:
    """Start a mirror and `end` it, again and again. Afterwards the queue is empty."""
    chance = random.Random(seed)
    drain(settings, data_dir)
    with Reader(data_dir) as reader:
        with Load(settings, seed=seed, rate=300) as load:
            for number in range(times):
                with MirrorProcess(settings, data_dir) as process:
                    process.wait_until_it_holds_the_directory()
                    time.sleep(chance.random() * 0.8)  # anywhere: recovering, connecting, in the middle of a batch
                    end(process)
                if (number + 1) % 20 == 0:
                    click.echo(f"{number + 1} times, {load.sent:,} events, {reader.read:,} files read")
        drain(settings, data_dir, timeout=600)
    found = {path: orjson.loads(content)["fields"] for path, content in contents(data_dir).items()}
    expected = load.expected
    return Outcome(
        sent=load.sent,
        read=reader.read,
        wrong=sorted(path for path in found.keys() | expected.keys() if found.get(path) != expected.get(path)),
        faults=reader.faults,
        unfinished=unfinished(data_dir),
        dead_letters=ready(settings, dead_letter_queue(settings.queue)),
    )


def kill_in_a_loop(settings: ConsumerSettings, data_dir: Path, kills: int, seed: int = 1) -> Outcome:
    """kill -9."""
    return end_in_a_loop(settings, data_dir, kills, MirrorProcess.kill, seed)


def restart_in_a_loop(settings: ConsumerSettings, data_dir: Path, restarts: int, seed: int = 1) -> Outcome:
    """SIGTERM, upon which each must end well."""

    def stop(process: MirrorProcess) -> None:
        assert process.stop() == 0, process.log.read_text()

    return end_in_a_loop(replace(settings, prefetch=50), data_dir, restarts, stop, seed)


@click.command()
@click.option("--kills", default=200)
@click.option("--restarts", default=0, help="Instead of the kills.")
@click.option("--url", default=lambda: os.environ.get("EVENTBUS_URL", "amqp://guest:guest@localhost//"))
@click.option("--seed", default=lambda: random.randrange(1 << 30))
def main(kills: int, restarts: int, url: str, seed: int) -> None:
    """Kill or end, start, compare."""
    settings = mirror_settings(url, f"kills-{uuid.uuid4().hex[:9]}")
    directory = Path(tempfile.mkdtemp(prefix="eventbus-kills-"))
    click.echo(f"seed {seed}, {directory}")
    try:
        if restarts:
            outcome = restart_in_a_loop(settings, directory / "data", restarts, seed)
        else:
            outcome = kill_in_a_loop(settings, directory / "data", kills, seed)
    finally:
        remove(settings)
    click.echo(f"{restarts or kills} times, {outcome.sent:,} events, {outcome.read:,} files read: {outcome}")
    if not outcome.good:
        raise SystemExit(1)
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
