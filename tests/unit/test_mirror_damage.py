"""A damaged state never harms a good file, and what its error names mends it."""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import orjson
import pytest

from consumers.json_mirror import command
from consumers.json_mirror.disk.files import Files
from consumers.json_mirror.errors import StateDamaged, StateTooNew, StateUnavailable
from consumers.json_mirror.state import STATE_FILE, State
from consumers.json_mirror.upkeep.comparison import Fault, compare, repair
from tests.support.mirroring import apply, contents, delivery, make_private, mirror

DAMAGES = (StateDamaged, StateTooNew, StateUnavailable)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Forty records and a tombstone, at rest."""
    made = tmp_path / "data"
    apply(made, [delivery(f"r{number}", number + 1, {"n": number, "text": "x" * 300}) for number in range(40)])
    apply(made, [delivery("gone", 50, {}), delivery("gone", 51)])
    return made


def state_file(data_dir: Path) -> Path:
    return make_private(data_dir) / STATE_FILE


def run(data_dir: Path, *options: str) -> int:
    return command.main([*options, "--data-dir", str(data_dir)])


def is_mended(data_dir: Path) -> bool:
    """Files and state agree, and the mirror works."""
    with mirror(data_dir) as handle:
        handle([delivery("later", 99, {"n": 1})])
    return run(data_dir, "--verify") == 0 and (data_dir / "crm/contact/later.json").exists()


def sql(data_dir: Path, *statements: str) -> None:
    connection = sqlite3.connect(state_file(data_dir), isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


# --- a flipped bit --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("options", [("--verify", "--repair"), ("--rebuild",)], ids=" ".join)
def test_flipped_bits_in_the_state_change_no_file(options: tuple[str, ...], seed: int, data_dir: Path) -> None:
    before = contents(data_dir)
    whole = bytearray(state_file(data_dir).read_bytes())
    chance = random.Random(seed)
    for _ in range(3):
        whole[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
    state_file(data_dir).write_bytes(whole)
    if run(data_dir, *options) != 0:
        assert run(data_dir, "--rebuild") == 0, "the message named it"
    assert contents(data_dir) == before
    assert is_mended(data_dir)


@pytest.mark.parametrize(
    "change",
    [
        "document = CAST(replace(document, 'xxx', 'xyx') AS BLOB)",
        "document = X'7B7D'",
        "document = X'FF00'",
        "document = NULL",
        "document = (SELECT document FROM record WHERE name = 'r6.json')",
        "version = version + 1",
        "version = 9223372036854775807",
        "version = 0",
        "rest = X'7B7D'",
        "checksum = checksum + 1",
        "name = 'r55.json'",
    ],
)
def test_a_record_that_was_changed_in_the_state_comes_back_from_its_file(change: str, data_dir: Path) -> None:
    before = contents(data_dir)
    sql(data_dir, f"UPDATE record SET {change} WHERE name = 'r5.json'")
    with State(state_file(data_dir)) as state, Files(data_dir) as files:
        found = {finding.path: finding.fault for finding in compare(state, files)}
        renamed = change.startswith("name")
        expected = {"crm/contact/r55.json": Fault.LOST, "crm/contact/r5.json": Fault.UNKNOWN}
        assert found == (expected if renamed else {"crm/contact/r5.json": Fault.SPOILT})
        repair(compare(state, files), state, files)
        assert not list(compare(state, files))
        assert [figures.live for figures in state.figures()] == [40]
    assert contents(data_dir) == before
    assert is_mended(data_dir)


def test_a_record_without_a_checksum_is_believed_only_as_the_document_of_its_file(data_dir: Path) -> None:
    before = contents(data_dir)
    sql(
        data_dir,
        "UPDATE record SET checksum = NULL",
        "UPDATE record SET document = X'7B7D' WHERE name = 'r5.json'",
        "UPDATE record SET version = 77 WHERE name = 'r6.json'",
    )
    (data_dir / "crm/contact/r7.json").unlink()
    assert run(data_dir, "--verify", "--repair") == 0
    assert contents(data_dir) == before


def test_what_is_damaged_on_both_sides_is_forgotten_and_told(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sql(data_dir, "UPDATE record SET document = X'7B7D' WHERE name IN ('r5.json', 'r6.json')")
    (data_dir / "crm/contact/r5.json").write_bytes(b"nonsense")
    (data_dir / "crm/contact/r6.json").unlink()
    assert run(data_dir, "--verify") == 1
    assert run(data_dir, "--verify", "--repair") == 0
    assert "2 damaged in the state, and no good file: forgotten" in capsys.readouterr().out
    assert contents(data_dir)["crm/contact/r5.json"] == b"nonsense"
    assert not (data_dir / "crm/contact/r6.json").exists()
    with mirror(data_dir) as handle:
        handle([delivery("r5", 60, {"n": 60}), delivery("r6", 60, {"n": 60})])
    assert orjson.loads(contents(data_dir)["crm/contact/r5.json"])["fields"] == {"n": 60}
    assert is_mended(data_dir)


def test_a_file_changed_by_hand_is_still_written_again(data_dir: Path) -> None:
    before = contents(data_dir)
    path = data_dir / "crm/contact/r5.json"
    path.write_bytes(path.read_bytes().replace(b"xxx", b"yyy"))
    assert run(data_dir, "--verify", "--repair") == 0
    assert contents(data_dir) == before


def test_a_start_puts_nothing_that_is_damaged_over_a_file(data_dir: Path) -> None:
    before = contents(data_dir)
    sql(
        data_dir,
        "UPDATE record SET document = X'7B7D' WHERE name = 'r5.json'",
        "INSERT INTO pending VALUES (0, 'crm/contact/r5.json')",
    )
    with mirror(data_dir):
        pass
    assert contents(data_dir) == before


# --- other damage ---------------------------------------------------------------------------------------------------

HEADS: dict[str, tuple[int, bytes]] = {
    "zeros": (0, bytes(100)),
    "noise": (0, bytes(range(100))),
    "magic": (3, b"X"),
    "page size": (16, b"\x03\x03"),
    "versions": (18, b"\x09\x09"),
    "read version": (19, b"\x07"),
    "schema format": (44, b"\xff\xff\xff\xff"),
    "user version": (60, b"\x7f\xff\xff\xff"),
    "negative user version": (60, b"\xff\xff\xff\xff"),
    "application": (68, b"\x01\x02\x03\x04"),
    "schema page": (100, bytes(200)),
}


@pytest.mark.parametrize("head", HEADS)
def test_a_spoilt_head_is_mended_by_a_rebuild(head: str, data_dir: Path) -> None:
    before = contents(data_dir)
    offset, noise = HEADS[head]
    whole = bytearray(state_file(data_dir).read_bytes())
    whole[offset : offset + len(noise)] = noise
    state_file(data_dir).write_bytes(whole)
    with pytest.raises(StateDamaged, match="--rebuild"), mirror(data_dir):
        pass
    assert run(data_dir, "--rebuild") == 0
    assert contents(data_dir) == before
    assert is_mended(data_dir)


LOSSES: dict[str, list[str]] = {
    **{
        f"no table {name}": [f"DROP TABLE {name}"]
        for name in ("meta", "entity", "record", "pending", "journal", "erased")
    },
    **{
        f"table {name} of another kind": [f"DROP TABLE {name}", f"CREATE TABLE {name} (x)"]
        for name in ("meta", "record")
    },
    "no notes": ["DELETE FROM meta"],
    "no batch": ["DELETE FROM meta WHERE key = 'batch'"],
    "a batch of letters": ["UPDATE meta SET value = 'x' WHERE key = 'batch'"],
    "no identity": ["DELETE FROM meta WHERE key = 'identity'"],
    "no entities": ["DELETE FROM entity"],
    "versions of letters": ["UPDATE record SET version = 'x'"],
    "names of bytes": ["UPDATE record SET name = X'FFFE' WHERE name = 'r5.json'"],
    "directories that are no Unicode": ["UPDATE entity SET directory = CAST(X'FFFE' AS TEXT)"],
}


@pytest.mark.parametrize("loss", LOSSES)
def test_whatever_is_lost_in_the_state_is_mended_by_what_the_error_names(loss: str, data_dir: Path) -> None:
    before = contents(data_dir)
    sql(data_dir, "PRAGMA foreign_keys = OFF", *LOSSES[loss])
    told: Any = None
    try:
        with mirror(data_dir) as handle:
            handle._fatal = lambda error: pytest.fail(str(error)) if not isinstance(error, DAMAGES) else None
            handle([delivery("r5", 60, {"n": 60})])
    except DAMAGES as error:
        told = str(error)
    assert told is None or "--rebuild" in told
    shutil.rmtree(data_dir / "crm")
    for path, content in before.items():
        (data_dir / path).parent.mkdir(parents=True, exist_ok=True)
        (data_dir / path).write_bytes(content)
    assert run(data_dir, "--rebuild") == 0
    assert before.keys() <= contents(data_dir).keys()
    assert is_mended(data_dir)
