"""A disk that fills up, by bytes or by inodes, and is freed: the mirror waits and goes on by itself; a power loss."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import orjson
import pytest

from consumers.base import ConsumerSettings
from consumers.json_mirror.disk.directories import PRIVATE
from consumers.json_mirror.heartbeat import Heartbeat
from consumers.json_mirror.state import State
from tests.support.consuming import publish, remove, wait_for
from tests.support.mirror_process import Load, MirrorProcess, Reader, drain, mirror_settings
from tests.support.mirroring import body, contents, unfinished
from tests.support.power import Disk, disk_at


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 4 MiB and 300 inodes; mounting one takes root."""
    place = tmp_path / "data"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=300", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        reason = "a file system of the test's own needs root and mount"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def settings(tmp_path: Path, unique: str) -> Iterator[ConsumerSettings]:
    made = mirror_settings(f"sqlite:///{tmp_path / 'broker.sqlite3'}", unique)
    yield made
    remove(made)


def fill_bytes(place: Path) -> Callable[[], None]:
    """Leave no byte; returns what frees them again."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return ballast.unlink


def fill_inodes(place: Path) -> Callable[[], None]:
    """Leave no inode; returns what frees them again."""
    ballast = place / "ballast"
    ballast.mkdir()
    made: list[Path] = []
    with suppress(OSError):
        while True:
            path = ballast / str(len(made))
            path.touch()
            made.append(path)

    def free() -> None:
        for path in made:
            path.unlink()
        ballast.rmdir()

    return free


@pytest.mark.slow
@pytest.mark.parametrize("fill", [fill_bytes, fill_inodes])
def test_a_full_disk_is_waited_out(
    settings: ConsumerSettings, small_disk: Path, fill: Callable[[Path], Callable[[], None]]
) -> None:
    old = {f"r{number}": {"n": 0, "text": "x" * 500} for number in range(20)}
    new = {f"r{number}": {"n": 1, "text": "y" * 2000} for number in range(40)}
    drain(settings, small_disk)
    publish(settings, [body(pk, 10, fields) for pk, fields in old.items()])
    drain(settings, small_disk)
    with Reader(small_disk) as reader, MirrorProcess(settings, small_disk) as process:
        process.wait_until_it_holds_the_directory()
        free = fill(small_disk)
        version = 20

        def is_full() -> bool:
            """Publish until there is more than fits into what the state's log has reserved."""
            nonlocal version
            version += 1
            publish(settings, [body(pk, version, fields) for pk, fields in new.items()])
            return "disk trouble" in process.log.read_text()

        wait_for(is_full, 30)
        for path, content in records(small_disk).items():
            assert orjson.loads(content)["fields"] in (old.get(Path(path).stem), new[Path(path).stem])
        assert process.running
        heartbeat = Heartbeat(small_disk / PRIVATE / "heartbeat")
        wait_for(lambda: "disk" in (heartbeat.trouble() or ""))
        free()
        wait_for(lambda: versions(small_disk) == {version}, 60)
        wait_for(lambda: heartbeat.trouble() is None)
        assert process.stop() == 0
    assert reader.faults == []
    assert {Path(path).stem: orjson.loads(text)["fields"] for path, text in records(small_disk).items()} == new
    assert unfinished(small_disk) == []
    with State(small_disk / PRIVATE / "state.sqlite3") as state:
        state.check()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with disk_at(tmp_path / "disk") as made:
        yield made


def cut_power(disk: Disk, process: MirrorProcess) -> None:
    disk.cut_power(lambda: os.kill(process.pid, signal.SIGSTOP), process.kill)


@pytest.mark.slow
def test_a_power_loss_loses_nothing_that_was_acknowledged(settings: ConsumerSettings, disk: Disk) -> None:
    data_dir = disk.place / "data"
    drain(settings, data_dir)
    calm = {f"crm/contact/calm{number}.json": {"n": number} for number in range(50)}
    with MirrorProcess(settings, data_dir) as process:
        process.wait_until_it_holds_the_directory()
        publish(settings, [body(f"calm{number}", 1, {"n": number}) for number in range(50)])
        # Noted as being on the disk: nobody will look at these files again.
        wait_for(lambda: len(contents(data_dir)) == 50 and not pending(data_dir))
        cut_power(disk, process)
    with Load(settings, rate=300) as load:
        for turn in range(1, 4):
            with MirrorProcess(settings, data_dir) as process:
                process.wait_until_it_holds_the_directory()
                wait_for(lambda wanted=turn * 400: load.sent > wanted)  # type: ignore[misc]
                cut_power(disk, process)
    drain(settings, data_dir)
    found = {path: orjson.loads(content)["fields"] for path, content in contents(data_dir).items()}
    assert found == {**load.expected, **calm}
    assert unfinished(data_dir) == []


def pending(data_dir: Path) -> list[str]:
    with State(data_dir / PRIVATE / "state.sqlite3", read_only=True) as state:
        return state.pending()


def records(place: Path) -> dict[str, bytes]:
    return {path: content for path, content in contents(place).items() if path.startswith("crm/")}


def versions(place: Path) -> set[int]:
    found = {int(orjson.loads(content)["version"]) for content in records(place).values()}
    return found if len(records(place)) == 40 else set()
