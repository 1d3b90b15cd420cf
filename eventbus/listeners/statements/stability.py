"""Whether a WHERE that is asked twice, in a look and in the statement after it, chooses the same rows."""

from __future__ import annotations

import re
from typing import Any, Final

from sqlalchemy import BindParameter, ColumnClause, Dialect, TextClause, literal_column, or_
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.selectable import SelectBase
from sqlalchemy.sql.visitors import iterate, replacement_traverse

from eventbus.records.columns import MYSQL

_IMMUTABLE: Final = frozenset(
    (
        "abs", "acos", "adddate", "addtime", "ascii", "asin", "atan", "bit_count", "bit_length", "ceil",
        "ceiling", "char_length", "character_length", "coalesce", "concat", "concat_ws", "conv", "convert_tz",
        "cos", "cot", "crc32", "date_add", "date_format", "date_part", "date_sub", "date_trunc", "datediff",
        "day", "dayname", "dayofmonth", "dayofweek", "dayofyear", "degrees", "elt", "exp", "extractvalue",
        "field", "find_in_set", "floor", "from_days", "greatest", "hex", "hour", "if", "ifnull", "initcap",
        "instr", "isnull", "json_array_length", "json_contains", "json_contains_path", "json_depth",
        "json_exists", "json_extract", "json_keys", "json_length", "json_overlaps", "json_query", "json_search",
        "json_type", "json_unquote", "json_valid", "json_value", "jsonb_array_length", "jsonb_extract_path",
        "jsonb_extract_path_text", "jsonb_typeof", "last_day", "lcase", "least", "left", "length", "ln",
        "locate", "log", "log10", "log2", "lower", "lpad", "ltrim", "makedate", "maketime", "md5",
        "microsecond", "mid", "minute", "mod", "month", "monthname", "nullif", "nvl", "oct", "octet_length",
        "ord", "position", "pow", "power", "quarter", "radians", "regexp_instr", "regexp_replace",
        "regexp_substr", "repeat", "replace", "reverse", "right", "round", "rpad", "rtrim", "sec_to_time",
        "second", "sha", "sha1", "sha2", "sign", "sin", "soundex", "space", "split_part", "sqrt", "str_to_date",
        "strcmp", "strpos", "subdate", "substr", "substring", "substring_index", "subtime", "tan",
        "time_to_sec", "timediff", "timestampadd", "timestampdiff", "to_days", "to_seconds", "translate",
        "trim", "trunc", "truncate", "ucase", "unhex", "upper", "week", "weekday", "weekofyear", "year",
        "yearweek",
    )
)  # fmt: skip
"""Functions that say the same of a row each time, on every database that has them."""
_OF_A_VALUE: Final = frozenset(("date", "time", "timestamp", "unix_timestamp"))
"""Those that do if they are asked of something, and not of the word "now"."""
_WORDS: Final = frozenset(
    ("all", "and", "any", "between", "case", "else", "in", "is", "like", "not", "on", "or", "then", "when")
)
"""What may stand before a bracket and is no function."""
_CALL: Final = re.compile(r"([^\s()=<>!,+*/|-]+)\s*\(")
_CHANGES: Final = re.compile(r"@|\b(?:select|current_\w+|localtime\w*|sysdate|\w*user)\b", re.IGNORECASE)
_CLOCKS: Final = {
    **dict.fromkeys(
        ("now", "current_timestamp", "localtime", "localtimestamp", "sysdate"), "NOW(6) + INTERVAL 5 SECOND"
    ),
    **dict.fromkeys(("curdate", "current_date"), "CAST(NOW(6) + INTERVAL 5 SECOND AS DATE)"),
    "utc_timestamp": "UTC_TIMESTAMP(6) + INTERVAL 5 SECOND",
}
"""Functions that tell the time, and MariaDB's words for a moment later."""


def is_stable(criterion: Any) -> bool:
    """Whether a WHERE chooses the same rows when it is asked twice under lock: it looks at nothing but the row."""
    return not any(_may_change_its_mind(each) or isinstance(each, SelectBase) for each in iterate(criterion))


def is_volatile(criterion: Any) -> bool:
    """Whether a function or text in it may answer otherwise each time."""
    return any(_may_change_its_mind(each) for each in iterate(criterion))


def writes(criterion: Any) -> bool:
    """Whether asking it changes something."""
    return any(isinstance(each, UpdateBase) for each in iterate(criterion))


def soon(criterion: Any, dialect: Dialect) -> Any:
    """What chooses now all rows that this will choose in a moment; None if that cannot be said.

    Where it asks MariaDB for the time, a row may come to match, or cease to, between a look and the statement.
    """
    if dialect.name not in MYSQL:
        return None if is_volatile(criterion) else criterion
    if any(_may_change_its_mind(each) and not _tells_time(each) for each in iterate(criterion)):
        return None
    later = replacement_traverse(criterion, {}, _later)
    return or_(criterion, later) if is_volatile(criterion) else criterion


def _later(element: Any, **_: Any) -> Any:
    return literal_column(f"({_CLOCKS[element.name.lower()]})", element.type) if _tells_time(element) else None


def _tells_time(element: Any) -> bool:
    return isinstance(element, FunctionElement) and getattr(element, "name", "").lower() in _CLOCKS


def _may_change_its_mind(element: Any) -> bool:
    if isinstance(element, ColumnClause):
        return bool(element.is_literal) and _is_moody(element.name)
    if isinstance(element, TextClause):
        return _is_moody(element.text)
    return isinstance(element, FunctionElement) and not _is_immutable(element)


def _is_immutable(function: FunctionElement[Any]) -> bool:
    name = getattr(function, "name", "").lower()
    first = next(iter(function.clauses), None)
    return name in _IMMUTABLE or (name in _OF_A_VALUE and first is not None and not isinstance(first, BindParameter))


def _is_moody(text: str) -> bool:
    """Whether SQL in words may answer otherwise each time: it asks other tables, or functions that are not known."""
    called = {name.lower() for name in _CALL.findall(text)}
    return not called <= _IMMUTABLE | _WORDS or _CHANGES.search(text) is not None
