"""kill -9 of the mirror, again and again, under load: `python -m tests.faults.mirror_kills --kills 200 [--url amqp://…]`.

All the while a reader parses every file. In the end every change the broker has confirmed is in the files, no file was
ever seen half written, no temporary file is left, and no good message is among the dead letters.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import click
import orjson

from consumers.base import ConsumerSettings
from eventbus.naming import dead_letter_queue
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


def kill_in_a_loop(settings: ConsumerSettings, data_dir: Path, kills: int, seed: int = 1) -> Outcome:
    """The queue must exist or be made by the first mirror; afterwards it is empty."""
    chance = random.Random(seed)
    drain(settings, data_dir)
    with Reader(data_dir) as reader:
        with Load(settings, seed=seed, rate=300) as load:
            for number in range(kills):
                with MirrorProcess(settings, data_dir) as process:
                    process.wait_until_it_holds_the_directory()
                    time.sleep(chance.random() * 0.8)  # anywhere: recovering, connecting, in the middle of a batch
                if (number + 1) % 20 == 0:
                    click.echo(f"{number + 1} kills, {load.sent:,} events, {reader.read:,} files read")
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


@click.command()
@click.option("--kills", default=200)
@click.option("--url", default=lambda: os.environ.get("EVENTBUS_URL", "amqp://guest:guest@localhost//"))
@click.option("--seed", default=lambda: random.randrange(1 << 30))
def main(kills: int, url: str, seed: int) -> None:
    """Kill, restart, compare."""
    settings = mirror_settings(url, f"kills-{uuid.uuid4().hex[:9]}")
    directory = Path(tempfile.mkdtemp(prefix="eventbus-kills-"))
    click.echo(f"seed {seed}, {directory}")
    try:
        outcome = kill_in_a_loop(settings, directory / "data", kills, seed)
    finally:
        remove(settings)
    click.echo(f"{kills} kills, {outcome.sent:,} events, {outcome.read:,} files read: {outcome}")
    if not outcome.good:
        raise SystemExit(1)
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
