"""Reading files of records: every shape and compression gives the same records, in bounded memory."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus.dumps import zstandard
from eventbus.dumps.dumping.output import open_output
from eventbus.dumps.reading import buffer, cutting, files
from eventbus.errors import LoadError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
RECORDS = st.lists(
    st.fixed_dictionaries({"model": st.text(), "pk": JSON, "fields": st.dictionaries(st.text(), JSON, max_size=4)}),
    max_size=12,
)
TRICKY = '}, {"model": "x", "pk": [{"model": 1}, {"pk": 2}]}, \\'
"""Text that looks like the end of a record and the start of another."""


def records(count: int) -> list[dict[str, Any]]:
    return [
        {
            "model": "crm.contact",
            "pk": n,
            "fields": {"text": TRICKY, "data": [{"model": 1}, {"pk": 2}], "é": "\U0001f600"},
        }
        for n in range(count)
    ]


def read(*paths: Path | str) -> list[Any]:
    return [files.origin(batch.path, item)[1] for batch in files.read(list(paths)) for item in batch.records]


WRITERS: dict[str, Callable[[list[Any]], bytes]] = {
    "compact": orjson.dumps,
    "spaced": lambda items: json.dumps(items).encode(),
    "indented": lambda items: json.dumps(items, indent=2, ensure_ascii=False).encode(),
    "one a line": lambda items: b"[\n" + b",\n".join(map(orjson.dumps, items)) + b"\n]\n",
    "with a byte order mark": lambda items: b"\xef\xbb\xbf \n" + orjson.dumps(items),
    "lines": lambda items: b"\n".join(map(orjson.dumps, items)),
    "lines of Windows": lambda items: b"\r\n\r\n".join(map(orjson.dumps, items)) + b"\r\n",
    "objects one after the other": lambda items: b"\n".join(orjson.dumps(i, option=orjson.OPT_INDENT_2) for i in items),
}


def zst(data: bytes) -> bytes:
    out = io.BytesIO()
    with zstandard.writer(out) as stream:
        stream.write(data)
    return out.getvalue()


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    "zst": zst,
}


@pytest.fixture(params=[64, 1000, 1 << 19])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Also chunks smaller than a record, so that every cut is met."""
    monkeypatch.setattr(buffer, "CHUNK", request.param)
    monkeypatch.setattr(cutting, "_TAIL", 100)
    return int(request.param)


@pytest.mark.parametrize("shape", WRITERS)
def test_every_shape_gives_the_records(shape: str, chunk: int, tmp_path: Path) -> None:
    for count in (0, 1, 2, 50):
        path = tmp_path / f"{count}.json"
        path.write_bytes(WRITERS[shape](records(count)) or b"\n")
        assert read(path) == records(count)


@given(items=RECORDS, size=st.integers(3, 60), shape=st.sampled_from(sorted(WRITERS)))
def test_any_records_cut_anywhere(items: list[Any], size: int, shape: str) -> None:
    before, buffer.CHUNK = buffer.CHUNK, size  # type: ignore[misc]
    try:
        stream = io.BytesIO(WRITERS[shape](items) or b"\n")
        assert [record for found in cutting.batches("x", stream) for record in found.records] == items
    finally:
        buffer.CHUNK = before  # type: ignore[misc]


@pytest.mark.parametrize(
    ("suffix", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress), ("json", bytes)]
)
def test_compression_is_told_by_the_content(suffix: str, compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    for name in (f"dump.{suffix}", "dump"):
        path = tmp_path / name
        path.write_bytes(compress(orjson.dumps(records(20))))
        assert read(path) == records(20)


@pytest.mark.parametrize("kind", PACKED)
def test_what_is_cut_off_or_has_something_behind_it_is_refused(kind: str, tmp_path: Path) -> None:
    """JSON lines, so that each piece of the content that comes out is whole records."""
    path, compress = tmp_path / "dump", PACKED[kind]
    line = orjson.dumps(records(1)[0]) + b"\n"
    data = compress(line * 20_000)
    for wrong in (data[:-1], data[:-8], data[: len(data) // 2], data[:7], data + b"junk", data + line):
        path.write_bytes(wrong)
        with pytest.raises(LoadError, match="dump: "):
            read(path)
    for right in (data, data + b"\0" * 8):
        path.write_bytes(right)
        assert len(read(path)) == 20_000


@pytest.mark.parametrize("kind", PACKED)
def test_all_streams_of_a_file_are_read_or_none(kind: str, tmp_path: Path) -> None:
    path, line = tmp_path / "dump", orjson.dumps(records(1)[0]) + b"\n"
    path.write_bytes(PACKED[kind](line) + PACKED[kind](line * 2))
    if kind == "lzma":
        with pytest.raises(LoadError, match="something follows the end of the compressed data"):
            read(path)
    else:
        assert len(read(path)) == 3


def test_a_changed_bit_in_our_own_zstandard_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "dump.jsonl.zst"
    with open_output(str(path)) as stream:
        stream.write(b'{"fields":{"name":"%s"},"model":"crm.contact","pk":1}\n' % os.urandom(64).hex().encode())
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    with pytest.raises(LoadError):
        read(path)


@pytest.mark.parametrize("place", ["a directory", "standard input", "an archive"])
def test_an_empty_file_was_cut_off_wherever_it_is(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path: Any = tmp_path / "crm"
    if place == "a directory":
        path.mkdir()
        (path / "1.json").write_bytes(orjson.dumps(records(1)[0]))
        (path / "2.json").write_bytes(b"")
    elif place == "standard input":
        path = "-"
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BufferedReader(io.BytesIO())))  # type: ignore[arg-type]
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.json", orjson.dumps(records(3)))
            archive.writestr("b.json", "")
    with pytest.raises(LoadError, match="there is nothing in it"):
        read(path)


def test_an_archive_is_read_file_by_file(tmp_path: Path) -> None:
    path = tmp_path / "dump.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.json", orjson.dumps(records(3)))
        archive.writestr("readme.txt", "no records")
        archive.writestr("b.jsonl", orjson.dumps(records(1)[0]))
    assert read(path) == records(3) + records(1)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BufferedReader(io.BytesIO(gzip.compress(orjson.dumps(records(5)))))  # type: ignore[arg-type]

    monkeypatch.setattr("sys.stdin", Stdin)
    assert read("-") == records(5)


def test_a_mirror_directory_is_read_by_name_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("crm/contact/2.json", "crm/contact/1.json", "crm/company/9.json", ".eventbus/tmp/x.json"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(orjson.dumps({"model": name, "pk": 1, "fields": {}}, option=orjson.OPT_INDENT_2))
    (tmp_path / "crm/contact/notes.txt").write_text("no record")
    (tmp_path / "crm/contact/.hidden.json").write_text("no record")
    assert [record["model"] for record in read(tmp_path)] == [
        "crm/company/9.json",
        "crm/contact/1.json",
        "crm/contact/2.json",
    ]
    (batch,) = files.read([tmp_path])
    assert files.origin(batch.path, batch.records[0])[0] == str(tmp_path / "crm/company/9.json")


@pytest.mark.parametrize(
    "data",
    [
        b"[{}, {]",
        b"[{}",
        b"[{}] trailing",
        b"[{},]",
        b'{"a": 1}\nnonsense\n',
        b"nonsense",
        b'{"a": ',
        b"[" + b'{"model": "a", "fields": {"b": NaN}},' * 9 + b"{}]",
        b"\x1f\x8bbroken",
        b"PK\x03\x04broken",
        b"\xff\xfe[\x00",
        b'["\xff"]',
    ],
)
def test_what_is_broken_names_the_file(data: bytes, chunk: int, tmp_path: Path) -> None:
    path = tmp_path / "dump.json"
    path.write_bytes(data)
    with pytest.raises(LoadError, match=r"dump\.json") as caught:
        read(path)
    assert str(caught.value.path).startswith(str(path))


def test_a_line_that_is_broken_is_numbered(tmp_path: Path) -> None:
    path = tmp_path / "dump.jsonl"
    path.write_bytes(b'{"a": 1}\n\n{"b": 2}\n{broken\n')
    with pytest.raises(LoadError, match="line 4"):
        read(path)


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="nothing"):
        read(tmp_path / "nothing.json")


class Endless(io.RawIOBase):
    """A list that grows while it is read."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts

    def read(self, _size: int = -1, /) -> bytes:
        return next(self._parts, b"")


@pytest.mark.parametrize("between", [b",", b",\n  "])
def test_memory_does_not_grow_with_the_file(between: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer, "CHUNK", 1 << 16)
    record = orjson.dumps(records(1)[0]) + between
    block = record * (buffer.CHUNK // len(record))

    def peak(blocks: int) -> int:
        parts = iter([b"[", *[block] * blocks, b"{}]"])
        tracemalloc.start()
        try:
            for _ in cutting.batches("x", Endless(parts)):  # type: ignore[arg-type]
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(40) < 1.3 * peak(4)


def test_broken_json_is_not_read_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer, "LARGEST", 1 << 21)

    def parts() -> Iterator[bytes]:
        yield b'[{"a": "'
        while True:
            yield b"a" * 100_000

    with pytest.raises(LoadError, match="no end of record"):
        list(cutting.batches("x", Endless(parts())))  # type: ignore[arg-type]


def test_what_is_no_json_is_named_by_its_record_and_line(tmp_path: Path) -> None:
    """In a list the line counts from the beginning of the file, also where earlier records were taken already."""
    path = tmp_path / "dump.json"
    good = '{"model": "crm.contact",\n "pk": 1, "fields": {"name": "é"}}'
    for before in (0, 3, 20_000):
        path.write_text("[" + ",\n".join([*[good] * before, '{\n"model": "crm.contact",\n "pk": NaN}', good]) + "]")
        with pytest.raises(LoadError, match=rf"\(record {before + 1}, line {2 * before + 3}\)") as caught:
            list(files.read([path]))
        assert (caught.value.record, caught.value.line) == (before + 1, 2 * before + 3)


def test_what_macos_keeps_in_an_archive_beside_each_file_is_no_file_of_records(tmp_path: Path) -> None:
    path = tmp_path / "dump.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("dump.json", orjson.dumps(records(2)))
        archive.writestr("__MACOSX/._dump.json", b"\0\5\x16\7")
    assert len(read(path)) == 2
