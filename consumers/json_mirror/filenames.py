"""File names of records: reversible, and no two records ever share one, on any file system.

A record's file is `<service>/<entity>/<record>.json` under DATA_DIR. Only `a-z 0-9 _ - % = , ~` and the upper-case
digits of escapes occur in a name, so nothing depends on case folding or on Unicode forms, no name is `.` or `..` or
begins with a dot, and none holds a separator.

====================================  =======================================================================
service, entity                       as they are where they are quoted names already, else `=` + their quoting
text key                              percent-encoded; one that looks like an integer has its first character
                                      encoded as well: `5` the text is `%35`, 5 the number is `5`
composite key                         its parts, each so encoded, joined by `,`; a single part ends with `,`
any other scalar (1.5, true, null…)   `=` + its JSON, percent-encoded; so is the empty text
reserved on Windows (con, com1, …)    its first character is encoded as well
more than 200 bytes                   the first 100, `~`, and the SHA-256 of the whole: the one kind that does not
                                      decode; the key itself always stands inside the file
====================================  =======================================================================
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import orjson

from eventbus.events import naming

SUFFIX: Final = ".json"
MAX_NAME: Final = 200
"""Bytes of an encoded name before its suffix; file systems allow 255 for the whole."""

_KEPT: Final = 100
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_RESERVED = re.compile(r"con|prn|aux|nul|com[0-9]|lpt[0-9]")
_AS_IT_IS = re.compile(rf"(?!(?:{_RESERVED.pattern})\Z)[a-z_][a-z0-9_-]{{0,{MAX_NAME - 1}}}")
"""The usual text key, that is its own name."""


class HashedName(ValueError):
    """The name was too long to be kept whole: what it stands for can be read in the file only."""


@lru_cache(maxsize=4096)
def directory(service: str, entity: str) -> str:
    """`crm`, `contact` → `crm/contact`: where the records of this entity lie, relative to DATA_DIR."""
    return f"{_word(service)}/{_word(entity)}"


def filename(pk: Any) -> str:
    """`"ab12"` → `ab12.json`; `pk` is a scalar or a sequence of scalars, as JSON knows them."""
    if type(pk) is str and _AS_IT_IS.fullmatch(pk):
        return pk + SUFFIX
    return _fit(_parts(pk) if isinstance(pk, list | tuple) else _part(pk)) + SUFFIX


def path(service: str, entity: str, pk: Any) -> str:
    """`crm`, `contact`, `ab12` → `crm/contact/ab12.json`."""
    return f"{directory(service, entity)}/{filename(pk)}"


def decode_directory(text: str) -> tuple[str, str]:
    """The service and entity that `directory` was given. Raises HashedName, and ValueError where it never gave this."""
    service, _, entity = text.partition("/")
    names = _decode_word(service), _decode_word(entity)
    if directory(*names) != text:
        raise ValueError(f"{text!r} is not a directory of the mirror")
    return names


def decode_filename(text: str) -> Any:
    """The primary key that `filename` was given. Raises HashedName, and ValueError where it never gave this name."""
    name = text.removesuffix(SUFFIX)
    _refuse_hashed(name)
    if "," in name:
        pk: Any = [_decode_part(part) for part in name.removesuffix(",").split(",")]
    else:
        pk = _decode_part(name)
    if filename(pk) != text:
        raise ValueError(f"{text!r} is not a file of the mirror")
    return pk


def _word(text: str) -> str:
    return _fit(text if _is_quoted(text) else f"={_quote(text)}")


def _is_quoted(text: str) -> bool:
    try:
        naming.unquote(text)
    except ValueError:
        return False
    return bool(text)


def _parts(values: Sequence[Any]) -> str:
    return ",".join(map(_part, values)) if len(values) != 1 else f"{_part(values[0])},"


def _part(value: Any) -> str:
    if type(value) is str and value:
        return _escape_first(value) if _INTEGER.fullmatch(value) else naming.quote(value)
    if type(value) is int:
        return str(value)
    return f"={_quote(orjson.dumps(value).decode())}"


def _quote(text: str) -> str:
    return naming.quote(text) if text else ""


def _escape_first(text: str) -> str:
    return f"%{ord(text[0]):02X}{text[1:]}"


def _fit(name: str) -> str:
    if len(name) > MAX_NAME:
        return f"{_cut(name)}~{sha256(name.encode()).hexdigest()}"
    return _escape_first(name) if _RESERVED.fullmatch(name) else name


def _cut(name: str) -> str:
    """The first bytes of the name, ending with a whole escape."""
    last = name.rfind("%", _KEPT - 2, _KEPT)
    return name[: _KEPT if last < 0 else last]


def _refuse_hashed(name: str) -> None:
    if "~" in name:
        raise HashedName(f"{name!r} holds a hash: read the key in the file")


def _decode_word(name: str) -> str:
    _refuse_hashed(name)
    if name.startswith("="):
        return _unquote(name[1:])
    unreserved = _unquote(name)
    return unreserved if _RESERVED.fullmatch(unreserved) else name


def _decode_part(text: str) -> Any:
    if text.startswith("="):
        return orjson.loads(_unquote(text[1:]))
    return int(text) if _INTEGER.fullmatch(text) else _unquote(text)


def _unquote(text: str) -> str:
    return unquote_to_bytes(text).decode("utf-8", "surrogatepass")
