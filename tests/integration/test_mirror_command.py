"""`python -m consumers.json_mirror`, as people and Kubernetes call it."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from consumers.base import ConsumerSettings, Shard
from consumers.base.broker.line import Line
from consumers.json_mirror import cache
from consumers.json_mirror.command import main, open_mirror
from consumers.json_mirror.disk.directories import PRIVATE
from consumers.json_mirror.heartbeat import Heartbeat
from consumers.json_mirror.settings import MirrorSettings
from tests.support.consuming import event_body, publish, remove, wait_for
from tests.support.mirror_process import COMMAND, MirrorProcess, drain, environment, mirror_settings
from tests.support.mirroring import body, contents, delivery, fields, mirror, unfinished


@pytest.fixture
def settings(broker_url: str, unique: str) -> Iterator[ConsumerSettings]:
    made = mirror_settings(broker_url, unique)
    yield made
    remove(made)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def local(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """DATA_DIR of a mirror without a broker, in the environment, with two records and a deletion in it."""
    monkeypatch.setenv("DATA_DIR", str(data_dir))
    monkeypatch.setenv("EVENTBUS_URL", f"sqlite:///{tmp_path / 'broker.sqlite3'}")
    with mirror(data_dir) as handle:
        handle([delivery("a", 1, {}), delivery("b", 2, {}), delivery("c", 3)])
    return data_dir


def test_drain_ends_with_everything_on_disk_and_the_queue_empty(settings: ConsumerSettings, data_dir: Path) -> None:
    drain(settings, data_dir)
    publish(settings, [body(f"r{number}", number + 1, {"n": number}) for number in range(1500)])
    publish(settings, [body("r0", 9000), b"not an event", body("r1", 9001, {"n": "changed"})])
    drain(settings, data_dir)
    assert len(contents(data_dir)) == 1499
    assert fields(data_dir, "crm/contact/r1.json") == {"n": "changed"}
    assert unfinished(data_dir) == []


def test_a_running_mirror_shows_its_figures_and_ends_on_sigterm(
    settings: ConsumerSettings, data_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    drain(settings, data_dir)
    publish(settings, [body("a", 1, {"n": 1}), body("b", 2), b"not an event"])
    with MirrorProcess(settings, data_dir) as process:
        wait_for((data_dir / "crm/contact/a.json").exists, 30)
        with cache.open(f"sqlite:///{data_dir}") as opened:
            found = opened.get("crm", "contact", "a")
        assert found is not None
        assert found.fields == {"n": 1}
        wait_for(lambda: status(settings, data_dir)["queues"] == {"waiting": 0, "dead_letters": 1})
        figures = status(settings, data_dir)
        (entity,) = figures["entities"]
        assert (entity["directory"], entity["live"], entity["deleted"]) == ("crm/contact", 1, 1)
        assert figures["lag"] == 0
        assert figures["alive"] < 20
        assert call(settings, data_dir, "--health").returncode == 0
        assert call(settings, data_dir, "--verify").returncode == 0
        assert process.stop() == 0, process.log.read_text()


def test_a_second_mirror_is_told_who_holds_the_directory(settings: ConsumerSettings, data_dir: Path) -> None:
    with MirrorProcess(settings, data_dir) as first:
        first.wait_until_it_holds_the_directory()
        second = call(settings, data_dir)
        assert second.returncode == 1
        assert f"process {first._process.pid} on {os.uname().nodename}" in second.stderr
        assert call(settings, data_dir, "--rebuild").returncode == 1
        first.kill()
    with MirrorProcess(settings, data_dir, "--drain") as third:
        assert third.wait() == 0, third.log.read_text()


def status(settings: ConsumerSettings, data_dir: Path) -> dict[str, object]:
    result = call(settings, data_dir, "--status", "--json")
    assert result.returncode == 0, result.stderr
    return dict(orjson.loads(result.stdout))


def call(settings: ConsumerSettings, data_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(settings, data_dir),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# --- without a broker ------------------------------------------------------------------------------------------


def test_the_log_is_json_without_a_password(data_dir: Path, tmp_path: Path) -> None:
    settings = mirror_settings("amqp://user:very-secret@127.0.0.1:1//", "x")
    with MirrorProcess(settings, data_dir) as process:
        wait_for(lambda: "cannot be reached" in process.log.read_text(), 30)
        assert process.stop() == 0
        text = process.log.read_text()
    lines = [orjson.loads(line) for line in text.splitlines()]
    assert {"time", "level", "logger", "event"} <= lines[0].keys()
    assert "very-secret" not in text
    assert "the broker cannot be reached: amqp://user:***@127.0.0.1:1//: ConnectionRefusedError" in text


def test_drain_without_a_broker_is_a_wrong_url_or_a_failure(data_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--drain", "--data-dir", str(data_dir), "--url", "nonsense://host"]) == 2


def test_the_log_says_where_files_go_and_events_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whole paths: a mirror that was started in another directory than the service waits for ever."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVENTBUS_URL", "sqlite:///broker.sqlite3")
    assert main(["--drain", "--data-dir", "data"]) == 0
    said = {line["event"]: line for line in map(orjson.loads, capfd.readouterr().err.splitlines())}
    assert said["mirroring"]["data_dir"] == f"{tmp_path}/data"
    assert (said["consuming"]["queue"], said["consuming"]["broker"]) == (
        "json-mirror",
        f"sqlite:///{tmp_path}/broker.sqlite3",
    )


def test_status_is_a_table(local: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--status"]) == 1  # no mirror lives, and no broker answers
    shown = capfd.readouterr().out
    assert [line.split()[:3] for line in shown.splitlines() if line.startswith("crm")] == [["crm/contact", "2", "1"]]
    assert "dead letters  unknown" in shown
    assert not (local.parent / "broker.sqlite3").exists()  # who looks makes nothing
    assert "trouble       the mirror is dead, or hangs: no sign of life; the broker cannot be reached: sqlite:" in shown
    assert main(["--drain"]) == 0
    capfd.readouterr()
    assert main(["--status"]) == 0
    assert "trouble       none" in capfd.readouterr().out
    Heartbeat(local / PRIVATE / "heartbeat").beat("broker lost: \x1b[31mreset")
    assert main(["--status"]) == 0
    assert "trouble       broker lost: \\u001b[31mreset" in capfd.readouterr().out


def test_status_is_a_failure_where_nobody_does_the_work(local: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def trouble() -> str:
        code = main(["--status", "--json"])
        told = orjson.loads(capfd.readouterr().out)
        assert told["well"] == (code == 0)
        return str(told["trouble"]) if code else ""

    assert main(["--drain"]) == 0
    settings = MirrorSettings.from_env()
    assert trouble() == ""  # it ended in order, and nothing waits
    publish(settings.consumer, [event_body(version=2)])
    assert "no mirror runs, and 1 message waiting" in trouble()
    assert main(["--drain"]) == 0
    killed = {"pid": 2**22 + 1, "host": socket.gethostname(), "since": "2026-11-23T08:00:00+00:00"}
    settings.lock_file.write_bytes(orjson.dumps(killed))
    assert "the mirror is dead: it ended without an end" in trouble()
    settings.lock_file.write_bytes(orjson.dumps({**killed, "pid": os.getpid()}))
    assert trouble() == ""
    os.utime(settings.heartbeat_file, (0, time.time() - 1000))
    assert "the last sign of life is 1,000 s old" in trouble()
    settings.lock_file.write_bytes(b"")
    line = Line(settings.consumer)
    line.channel().exchange_delete(settings.consumer.exchange)
    assert "there is no exchange eventbus" in trouble()
    line.channel().queue_delete("json-mirror")
    line.drop()
    assert "there is no queue json-mirror" in trouble()


def test_lag_is_the_age_of_what_waits_and_not_of_what_was_applied(
    local: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["--drain"]) == 0
    settings = MirrorSettings.from_env()
    publish(settings.consumer, [event_body(version=2)])
    main(["--status", "--json"])
    assert 0 <= orjson.loads(capfd.readouterr().out)["lag"] < 60  # the last event is of another week


def test_what_a_mirror_in_trouble_holds_counts_as_lag(local: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The broker counts it neither as waiting nor as done."""
    assert main(["--drain"]) == 0
    os.utime(local / PRIVATE / "caught-up", (0, time.time() - 2000))

    def lag(trouble: str) -> float:
        Heartbeat(local / PRIVATE / "heartbeat").beat(trouble)
        main(["--status", "--json"])
        return float(orjson.loads(capfd.readouterr().out)["lag"])

    assert lag("") == lag("something foreign stands in the place of 1 file") == 0
    assert lag("the disk holds up 3 deliveries: No space left on device") > 1000


@pytest.mark.parametrize("action", [["--status"], ["--verify"], ["--verify", "--repair"], ["--rebuild"], ["--health"]])
def test_a_directory_that_is_not_there_is_named_and_not_made(
    tmp_path: Path, action: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    nowhere = tmp_path / "nowhere"
    assert main([*action, "--data-dir", str(nowhere)]) == 1
    shown = capfd.readouterr().err
    assert "no mirror has run" in shown or "there is no directory" in shown
    assert str(nowhere) in shown
    assert not nowhere.exists()


@pytest.mark.parametrize("action", [["--status"], ["--verify"], ["--verify", "--repair"]])
def test_where_the_state_is_lost_and_files_are_not_it_says_what_to_run(
    local: Path, action: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    for path in (local / PRIVATE).iterdir():
        if path.is_file():
            path.unlink()
    assert main(action) == 1
    shown = capfd.readouterr().err
    assert "run --rebuild" in shown
    assert "no mirror has run" not in shown
    assert main(["--rebuild"]) == 0
    assert main(action) == (action == ["--status"])  # nobody has drained anything: there is no broker


@pytest.mark.parametrize("action", [["--drain"], ["--rebuild"], ["--status"]])
def test_a_directory_that_cannot_be_used_is_told_of_by_its_setting(
    tmp_path: Path, action: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".eventbus").write_text("foreign")
    assert main([*action, "--data-dir", str(tmp_path)]) == 1
    shown = capfd.readouterr().err
    assert f"DATA_DIR (--data-dir) is {tmp_path}, which cannot be used: " in shown
    assert f"{tmp_path / '.eventbus'}" in shown


def test_only_owner_and_group_read_what_the_mirror_makes(data_dir: Path) -> None:
    """Whatever the umask allows beyond that."""
    before = os.umask(0)
    try:
        with open_mirror(MirrorSettings(data_dir=data_dir / "fresh")) as opened:
            opened([delivery("a", 1, {"id": "a"})])
            opened.turned()
            made = [data_dir / "fresh", *(data_dir / "fresh").rglob("*")]
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in made}
    finally:
        os.umask(before)
    directories = {"fresh", "crm", "contact", PRIVATE, "making"}
    assert {name for name in modes if name not in directories} == {
        "a.json", "state.sqlite3", "state.sqlite3-wal", "state.sqlite3-shm", "lock", "heartbeat",
    }  # fmt: skip
    assert modes == {name: 0o750 if name in directories else 0o640 for name in modes}


def test_another_shard_needs_another_directory(
    local: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What it does not get would stay as it is."""
    assert main(["--drain"]) == 0
    monkeypatch.setenv("EVENTBUS_SHARD", "0/2")
    assert main(["--drain"]) == 2
    assert "belongs to shard none, EVENTBUS_SHARD says 0/2" in capfd.readouterr().err
    with open_mirror(MirrorSettings(data_dir=local / "0", consumer=ConsumerSettings(shard=Shard(0, 2)))):
        pass
    monkeypatch.setenv("EVENTBUS_SHARD", "0/3")
    assert main(["--drain", "--data-dir", str(local / "0")]) == 2
    assert "belongs to shard 0/2, EVENTBUS_SHARD says 0/3" in capfd.readouterr().err


def test_verify_repair_and_rebuild_tell_what_they_found(local: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--verify"]) == 0
    (local / "crm/contact/a.json").unlink()
    (local / "crm/contact/b.json").write_bytes(b"")
    assert main(["--verify"]) == 1
    shown = capfd.readouterr().out
    assert "missing: crm/contact/a.json" in shown
    assert "broken: crm/contact/b.json" in shown
    (local / "crm/contact/notes.json").write_bytes(b"[]")
    assert main(["--verify", "--repair"]) == 0
    assert capfd.readouterr().out.splitlines()[-4:] == [
        "1 broken: written again",
        "1 foreign: left alone",
        "1 missing: written again",
        "files and state agree",
    ]
    assert main(["--verify"]) == 0
    (local / ".eventbus/state.sqlite3").write_bytes(b"damaged" * 9999)
    assert main(["--verify"]) == 1
    assert "--rebuild" in capfd.readouterr().err
    assert main(["--rebuild"]) == 0
    shown = capfd.readouterr().out
    assert "2 unknown to the state: taken into the state\n" in shown
    assert "2 records" in shown
    assert main(["--verify"]) == 0


def test_health_is_the_age_of_the_heartbeat(local: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--health"]) == 1
    assert "no mirror has run" in capfd.readouterr().err
    heartbeat = local / ".eventbus/heartbeat"
    heartbeat.touch()
    assert main(["--health"]) == 0
    assert probe().returncode == 0
    long_ago = time.time() - 1000
    os.utime(heartbeat, (long_ago, long_ago))
    assert main(["--health"]) == 1
    assert "no sign of life for 1,00" in probe().stderr
    ahead = time.time() + 1000
    os.utime(heartbeat, (ahead, ahead))
    assert main(["--health"]) == 1

    assert "DATA_DIR" in probe("--help").stdout
    assert probe("--data-dir", str(local)).returncode == 2


def probe(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What Kubernetes calls: it must not need more than the standard library."""
    lean = [sys.executable, "-S", "-m", "consumers.json_mirror.health", *arguments]  # without site-packages
    return subprocess.run(lean, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "arguments",
    [["--verify", "--status"], ["--repair"], ["--json"], ["--drain", "--health"], ["--nonsense"], ["surplus"]],
)
def test_wrong_use_is_exit_code_2(local: Path, arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capfd.readouterr().err


def test_every_wrong_variable_is_named_at_once(
    local: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVENTBUS_TOMBSTONE_DAYS", "soon")
    monkeypatch.setenv("EVENTBUS_DURABLE_FILES", "perhaps")
    monkeypatch.setenv("EVENTBUS_PREFETCH", "0")
    assert main([]) == 2
    shown = capfd.readouterr().err
    assert "TOMBSTONE_DAYS" in shown
    assert "DURABLE_FILES" in shown
    assert "PREFETCH" in shown
    monkeypatch.setenv("EVENTBUS_TOMBSTONE_DAYS", "-1")
    assert main([]) == 2
    assert "TOMBSTONE_DAYS is -1" in capfd.readouterr().err


def test_settings_may_come_from_mounted_files(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DATA_DIR")
    (tmp_path / "secret").write_text(f"{local}\n")
    monkeypatch.setenv("DATA_DIR_FILE", str(tmp_path / "secret"))
    assert main(["--status"]) == 1
    assert "crm/contact" in capfd.readouterr().out


def test_a_sqlite_cache_elsewhere_is_refused(
    local: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVENTBUS_CACHE_URL", "sqlite:////elsewhere")
    assert main(["--drain"]) == 2
    assert "EVENTBUS_CACHE_URL" in capfd.readouterr().err


def test_help_ends_well(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "--rebuild" in capfd.readouterr().out


def test_a_forgotten_record_takes_its_next_event_whatever_its_version(
    data_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One that was planted far ahead holds every other out."""
    with mirror(data_dir) as handle:
        handle([delivery("ab12", 10**18, {"id": "ab12", "planted": True}), delivery(5, 10**18, None, op="d")])
        handle([delivery("other", 7, {"id": "other"})])
    for record, code in [("crm.contact/ab12", 0), ("crm.contact/ab12", 1), ("crm.contact/5", 0), ("nonsense", 2)]:
        assert main(["--forget", record, "--data-dir", str(data_dir)]) == code
    assert sorted(path.name for path in data_dir.rglob("*.json")) == ["other.json"]
    with mirror(data_dir) as handle:
        handle([delivery("ab12", 1, {"id": "ab12"}), delivery(5, 1, {"id": 5})])
    assert fields(data_dir, "crm/contact/ab12.json") == {"id": "ab12"}
    assert main(["--verify", "--data-dir", str(data_dir)]) == 0
