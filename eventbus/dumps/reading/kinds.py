"""What a file is that is no JSON in UTF-8: people bring others, and want to be told."""

from __future__ import annotations

import codecs
from typing import Final

_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_CONVERT: Final = "convert it first: iconv -f {} -t UTF-8 old.json > new.json"
_KINDS: Final = (
    (b"<", "XML, which is not read: write the fixture with --format json"),
    (b"---", "YAML, which is not read: write the fixture with --format json"),
    (b"- ", "YAML, which is not read: write the fixture with --format json"),
    (b"%YAML", "YAML, which is not read: write the fixture with --format json"),
    (b"SQLite format 3", "a SQLite database: name it with --database, and dump it with `eventbus dumpdata`"),
    (b"PGDMP", "a dump of pg_dump, which pg_restore reads"),
    (b"7z\xbc\xaf", "a 7-Zip archive, which is not read: unpack it first"),
    (b"Rar!", "a RAR archive, which is not read: unpack it first"),
    (b"\x04\x22\x4d\x18", "compressed by lz4, which is not read: unpack it first"),
    (b"\x1f\x9d", "compressed by compress (.Z), which is not read: unpack it first"),
)


def other_kind(head: bytes) -> str | None:
    """What a file is that begins like this, if it is known and not JSON in UTF-8.

    JSON lines without a record are one line break, so a file without a byte is none of ours.
    """
    if not head:
        return "there is nothing in it: was it cut off?"
    for mark, name in _MARKS:
        if head.startswith(mark):
            return f"this is {name}, JSON is read in UTF-8: {_CONVERT.format(name)}"
    if b"\0" in head[:2] and head[:2].strip(b"\0") in (b"[", b"{"):
        return f"this is UTF-16, JSON is read in UTF-8: {_CONVERT.format('UTF-16')}"
    for start, what in _KINDS:
        if head.lstrip().startswith(start) or head.startswith(start):
            return f"this is {what}"
    return None


def not_utf8(data: bytes) -> str | None:
    """Where bytes stop to be UTF-8, and what to do; None where they are, but for an end that was cut off."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            return None
        return (
            f"the byte 0x{data[error.start]:02x} is not UTF-8, in which JSON is read; is the file in Latin-1? "
            f"{_CONVERT.format('LATIN1')}"
        )
    return None
