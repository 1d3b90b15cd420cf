"""Files made to break a reader: refused in one line, in bounded memory and time; only files are read."""

from __future__ import annotations

import bz2
import gc
import gzip
import io
import json
import lzma
import os
import threading
import tracemalloc
import weakref
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventbus.dumps.reading import buffer, cutting, files, packed, sources
from eventbus.dumps.reading.places import Places
from eventbus.dumps.writing.failures import Failure, Failures
from eventbus.errors import LoadError
from tests.support.planting import make_socket, make_sparse

RECORD = b'{"model": "crm.contact", "pk": "a", "fields": {}}'


def read(*paths: Path | str) -> list[Any]:
    return [files.origin(batch.path, item)[1] for batch in files.read(list(paths)) for item in batch.records]


class Endless(io.RawIOBase):
    """A head and then the same for ever; counts what was read."""

    def __init__(self, head: bytes, more: bytes) -> None:
        self._head = head
        self._more = more * max(1, (1 << 16) // len(more))
        self.count = 0

    def read(self, size: int = -1, /) -> bytes:
        data, self._head = self._head or self._more, b""
        self.count += len(data)
        return data


ENDLESS = {
    "one text": (b'[{"model": "', b"a"),
    "one text of escapes": (b'[{"model": "', b'\\"'),
    "blanks in a list": (b"[", b" "),
    "blanks after a record": (b"[" + RECORD, b"\n"),
    "blanks after a comma": (b"[" + RECORD + b",", b"\n"),
    "blanks before anything": (b"", b" \n"),
    "one object": (b'{"model": "', b"a"),
    "one object over lines": (b"{\n", b" "),
    "one line after a good one": (RECORD + b'\n{"model": "', b"a"),
    "one object of lists": (b'[{"fields": {"a": [', b"[],"),
    "one object of what looks like ends of records": (b'[{"fields": {"a": [', b'{},{"model":{}},'),
    "one object of numbers": (b'[{"fields": {"a": [', b"1,"),
    "one number": (b'[{"fields": {"a": ', b"1"),
    "brackets": (b"[", b"["),
    "braces": (b"", b'{"a":'),
    "commas": (b"[1", b","),
    "digits": (b"[", b"1"),
    "NULs": (b"", b"\0"),
    "text without quotes": (b"", b"x"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_has_no_end_is_refused_before_long(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer, "CHUNK", 1 << 12)
    monkeypatch.setattr(buffer, "LARGEST", 1 << 18)
    monkeypatch.setattr(cutting, "MOST_VALUES", 1 << 12)
    stream = Endless(*ENDLESS[name])
    with pytest.raises(LoadError, match=r"dump\.json: (line 1 is )?not "):
        list(cutting.batches("dump.json", stream))  # type: ignore[arg-type]
    assert stream.count < 3 * buffer.LARGEST


def pack_zip(data: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.json", data)
    return made.getvalue()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "zip": pack_zip,
}


@pytest.mark.parametrize("packer", PACKERS)
def test_a_bomb_stays_packed(packer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer, "LARGEST", 1 << 20)
    path = tmp_path / "dump"
    path.write_bytes(PACKERS[packer](b'[{"model": "' + b"a" * (4 << 20)))
    with pytest.raises(LoadError, match="no end of record"):
        read(path)


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("damage", ["cut", "changed", "noise"])
def test_a_damaged_archive_is_told_in_a_line(packer: str, damage: str, tmp_path: Path) -> None:
    noise = os.urandom(30_000).hex()
    packed = PACKERS[packer](b"[" + b",".join([RECORD] * 999 + [json.dumps({"model": noise}).encode()]) + b"]")
    middle = len(packed) // 2
    tails = {"cut": b"", "changed": bytes(255 - byte for byte in packed[middle:]), "noise": b"x" * middle}
    path = tmp_path / "dump"
    path.write_bytes(packed[:middle] + tails[damage])
    with pytest.raises(LoadError, match="dump") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def spoilt_zip(tmp_path: Path, offset: int, value: int) -> Path:
    """An archive with this value in the header of its one file, and in the list of files."""
    raw = bytearray(pack_zip(b"[" + RECORD + b"]"))
    raw[offset] = raw[raw.index(b"PK\x01\x02") + offset + 2] = value
    path = tmp_path / "dump.zip"
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(("offset", "value", "why"), [(6, 1, "encrypted"), (8, 97, "method"), (8, 14, "method")])
def test_members_that_cannot_be_read_are_named(offset: int, value: int, why: str, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=rf"dump\.zip/x\.json: .*{why}"):
        read(spoilt_zip(tmp_path, offset, value))


def test_the_listing_of_an_archive_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dump.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(100):
            archive.writestr(f"{number}.json", RECORD)
    assert len(read(path)) == 100
    monkeypatch.setattr(sources, "LARGEST_LISTING", 1000)
    with pytest.raises(LoadError, match="list of files"):
        read(path)


def test_unpacking_asks_for_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dump.xz"
    path.write_bytes(lzma.compress(RECORD, preset=3))
    assert len(read(path)) == 1
    monkeypatch.setattr(packed, "XZ_MEMORY", 1 << 20)
    with pytest.raises(LoadError, match="cannot be read: Memory usage limit"):
        read(path)


def test_streams_of_xz_may_follow_each_other(tmp_path: Path) -> None:
    path = tmp_path / "dump.xz"
    path.write_bytes(lzma.compress(b"[" + RECORD) + b"\0" * 20_000 + lzma.compress(b"," + RECORD + b"]") + b"\0" * 4)
    assert len(read(path)) == 2


# --- directories ----------------------------------------------------------------------------------------------------


PLANTED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a FIFO": (os.mkfifo, "this is a FIFO"),
    "a socket": (make_socket, "this is a socket"),
    "a link to a file outside": (lambda path: path.symlink_to(path.parents[2] / "secret.json"), "a symbolic link"),
    "a link to a device": (lambda path: path.symlink_to("/dev/zero"), "a symbolic link"),
    "a dangling link": (lambda path: path.symlink_to("nowhere"), "a symbolic link"),
    "a sparse file of a terabyte": (make_sparse, "not valid JSON"),
    "a file under a name that is no Unicode": (
        lambda path: Path(os.fsdecode(bytes(path.parent) + b"/\xff\x1b[2J.json")).write_bytes(b"{"),
        r"\\udcff\\u001b\[2J\.json",
    ),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_what_is_planted_in_a_directory_is_named_and_not_read(kind: str, tmp_path: Path) -> None:
    plant, told = PLANTED[kind]
    (tmp_path / "secret.json").write_bytes(RECORD)
    place = tmp_path / "data" / "crm" / "b.json"
    place.parent.mkdir(parents=True)
    (place.parent / "a.json").write_bytes(RECORD)
    plant(place)
    with pytest.raises(LoadError, match=told) as caught:
        read(tmp_path / "data")
    assert str(caught.value).isprintable()


def test_links_between_directories_are_not_followed_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.json").write_bytes(RECORD)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert len(read(tmp_path)) == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/loop: a link to a directory is not followed"
    ]


def test_a_directory_without_an_end_is_refused(tmp_path: Path) -> None:
    place = tmp_path
    for _ in range(sources.DEEPEST + 1):
        place = place / "d"
        place.mkdir()
    with pytest.raises(LoadError, match="deep"):
        read(tmp_path)


def test_a_named_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(RECORD)
    (tmp_path / "named.json").symlink_to("a.json")
    assert len(read(tmp_path / "named.json")) == 1


def test_a_fifo_nobody_writes_into_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "FIFO_PATIENCE", 0.05)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(LoadError, match="nobody writes"):
        read(tmp_path / "fifo")


@pytest.fixture
def pipe() -> Iterator[tuple[Path, int]]:
    """A pipe as the shell's <(…) names it, and its writing end."""
    reading, writing = os.pipe()
    yield Path(f"/dev/fd/{reading}"), writing
    os.close(reading)


def test_a_pipe_whose_writer_is_slow_is_waited_for(pipe: tuple[Path, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "FIFO_PATIENCE", 0.05)
    path, writing = pipe
    begun = threading.Event()
    found: list[Any] = []

    def load() -> None:
        begun.set()
        found.extend(read(path))

    thread = threading.Thread(target=load)
    thread.start()
    begun.wait()
    thread.join(0.3)  # longer than the patience
    assert thread.is_alive()
    os.write(writing, RECORD)
    os.close(writing)
    thread.join(10)
    assert len(found) == 1


# --- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [2**63, 2**64 + 1, 10**29 + 1, -(2**63) - 1, 2**53 + 1])
@pytest.mark.parametrize("shape", [b"[%b]", b"%b\n", b"%b", b"[%b, \n%b]"])
def test_integers_are_exact(number: int, shape: bytes, tmp_path: Path) -> None:
    record = b'{"model": "a", "pk": 1, "fields": {"n": [%d], "v": "00001763884800123456"}}' % number
    path = tmp_path / "dump.json"
    path.write_bytes(shape.replace(b"%b", record))
    assert all(item["fields"]["n"] == [number] for item in read(path))


def test_an_integer_without_an_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dump.json"
    path.write_bytes(b'[{"model": "a", "pk": 1, "fields": {"n": %b}}]' % (b"9" * 5000))
    with pytest.raises(LoadError, match="not valid JSON"):
        read(path)


def test_values_are_counted_and_commas_in_texts_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "MOST_VALUES", 1000)
    path = tmp_path / "dump.json"
    for many, few in (({"a": [0] * 2000}, {"a": [0] * 900}), ({"a": [[]] * 1001}, {"a": ',[{"' * 3000})):
        path.write_bytes(json.dumps([{"model": "a", "pk": 1, "fields": few}]).encode())
        assert len(read(path)) == 1
        path.write_bytes(json.dumps([{"model": "a", "pk": 1, "fields": many}]).encode())
        with pytest.raises(LoadError, match=r"more than .*1,000 values"):
            read(path)


@pytest.mark.parametrize("shape", [b"[%b]", b"[\n  %b]", b"%b", b"%b\n%b"])
def test_dense_numbers_in_an_indented_file_are_read(shape: bytes, tmp_path: Path) -> None:
    path = tmp_path / "dump.json"
    record = b'{\n  "model": "a", "pk": 1, "fields": {"n": [%b1]}}' % (b"1," * 50_000)
    path.write_bytes(shape.replace(b"%b", record))
    assert {len(item["fields"]["n"]) for item in read(path)} == {50_001}


@pytest.mark.parametrize("form", [b"[%b]", b"%b"])
def test_objects_and_lists_weigh_what_they_take_in_memory_not_what_they_are_in_json(
    tmp_path: Path, form: bytes
) -> None:
    record = b'{"model":"crm.contact","pk":1,"fields":{"data":[' + b"[]," * 50_000 + b"1]}}"
    (tmp_path / "dense.json").write_bytes(form % record)
    (batch,) = files.read([tmp_path / "dense.json"])
    assert batch.size < 160_000
    assert batch.weight > 50_000 * 56, "an empty list has 56 bytes"


def test_a_batch_is_not_held_while_the_next_one_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer, "CHUNK", 1 << 14)
    monkeypatch.setattr(files, "_MOST_WEIGHT", 1 << 18)
    record = b'{"model": "crm.contact", "pk": "a", "fields": {"a": [' + b"[]," * 4_000 + b"[]]}}"
    (tmp_path / "lines.jsonl").write_bytes(4 * (record + b"\n"))
    (tmp_path / "list.json").write_bytes(b"[" + b",".join(4 * [record]) + b"]")
    directory = tmp_path / "directory"
    directory.mkdir()
    for number in range(4):
        (directory / f"{number}.json").write_bytes(record)
    parse, alive = cutting.parse, []

    def counted(data: bytes) -> Any:
        alive.append(sum(type(each) is list for each in gc.get_objects()))
        return parse(data)

    monkeypatch.setattr(cutting, "parse", counted)
    for path in sorted(tmp_path.iterdir()):
        for batch in files.read([path]):
            del batch
    assert len(alive) > 8
    assert max(alive) < alive[0] + 3_000


class Value:
    """Something large in a record."""


def test_a_failure_does_not_hold_what_was_wrong() -> None:
    failures, values = Failures(20, Places([])), []

    def fail() -> None:
        value = Value()
        values.append(weakref.ref(value))
        raise ValueError("wrong")

    for _ in range(3):
        try:
            fail()
        except ValueError as error:
            failures.add(Failure(None, "wrong", cause=error, model="crm.contact"))
    assert failures
    assert [value() for value in values] == [None, None, None]


def test_values_between_many_short_texts_are_counted_in_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "MOST_VALUES", 1 << 12)
    data = b'[{"model": "' + b'},{"model":' * 100_000
    tracemalloc.start()
    cutting._count_values(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(data)
