"""Statements that are not captured: warned of, or refused, as the mode wants it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import Any, Final, Literal, get_args

from sqlalchemy import CTE, Delete, Insert, Select, TextClause, Update
from sqlalchemy.orm import ORMExecuteState
from sqlalchemy.sql.dml import UpdateBase

from eventbus.errors import CaptureError, CaptureWarning, ConfigurationError
from eventbus.listeners.capture import Capture
from eventbus.listeners.statements.recognition import Rows
from eventbus.listeners.statements.sent import Sent, table_of
from eventbus.muting import MUTED

Mode = Literal["capture", "warn", "raise", "ignore"]
MODES: Final = get_args(Mode)
OPTION: Final = "eventbus_bulk"
"""Execution option that chooses the mode for one statement."""

_WRITES: Final = re.compile(
    r"(?:--[^\n]*\n|/\*.*?\*/|\s)*"
    r"(?:(?:insert|update|delete|replace|merge|truncate|copy)\b|with\b.*\b(?:insert|update|delete|merge)\b)",
    re.IGNORECASE | re.DOTALL,
)


class Omissions:
    """Says what of one installation's statements is not captured: by a warning, or by refusing it.

    Of each table and each text it warns once.
    """

    def __init__(self, capture: Capture, rows: Rows, mode: Mode) -> None:
        if mode not in MODES:
            raise ConfigurationError(f"install(bulk={mode!r}): use one of {', '.join(MODES)}")
        self.mode = mode
        self._capture = capture
        self._rows = rows
        self._noticed: set[str] = set()

    def mode_of(self, state: ORMExecuteState) -> Mode:
        """The mode that counts for a statement. Raises CaptureError for one that there is not."""
        mode: Mode = state.execution_options.get(OPTION, self.mode)
        if mode not in MODES:
            raise CaptureError(f"execution option {OPTION}={mode!r}: use one of {', '.join(MODES)}")
        return mode

    def leave_out(self, mode: Mode, what: str) -> None:
        """A statement that could be captured, and is not to be. Raises CaptureError where the mode says so."""
        if mode == "raise":
            raise CaptureError(f"{what}: this installation refuses bulk statements (bulk='raise')")
        warnings.warn(f"{what}: its changes are not captured (bulk='warn')", CaptureWarning, stacklevel=2)

    def notice_namesake(self, mode: Mode, statement: Update | Delete | Insert) -> None:
        """A statement whose table is none that is captured; it may look like one."""
        name = self._rows.namesake_of(statement)
        if name is None:
            self._notice_stray(mode, statement)
            return
        what = f"{verb(statement)} of {table_of(statement.table).name} by another object than the Table of {name}"
        if mode == "raise":
            raise CaptureError(f"{what}: this installation refuses it (bulk='raise')")
        warnings.warn(
            f"{what} is not captured. Use that, or say execution_options({OPTION}='ignore') if another table is meant",
            CaptureWarning,
            stacklevel=2,
        )

    def _notice_stray(self, mode: Mode, statement: Update | Delete | Insert) -> None:
        if not self._rows.is_stray(statement):
            return
        table: Any = table_of(statement.table)
        what = f"{verb(statement)} of {table.fullname}, a table that no class is mapped to"
        if mode == "raise":
            raise CaptureError(f"{what}: this installation refuses it (bulk='raise')")
        if self._is_news(f"table {table.fullname}"):
            warnings.warn(
                f"{what}: not captured. Name the table in install(include=[…]), or in exclude=[…] if nobody is to "
                "know of its rows",
                CaptureWarning,
                stacklevel=2,
            )

    def notice_inner(self, sent: Sent) -> None:
        """What a statement writes in its CTEs."""
        self._notice_written(sent.inner)

    def notice_replacing(self, sent: Sent, name: str) -> None:
        """SQLite's UPDATE OR REPLACE: which rows are in its way is not asked."""
        if sent.verb == "update" and any("REPLACE" in str(prefix).upper() for prefix, _ in sent.statement._prefixes):
            what = f"UPDATE OR REPLACE of {name}"
            if self.mode == "raise":
                raise CaptureError(f"{what}: this installation refuses it (bulk='raise')")
            if self._is_news(what):
                warnings.warn(f"{what}: rows that it replaces are not captured", CaptureWarning, stacklevel=2)

    def notice_select(self, state: ORMExecuteState, select: Select[Any]) -> None:
        """What a SELECT writes in CTEs that it takes its rows from; to look into its whole would cost too much."""
        written = written_by(select)
        if not written:
            return
        mode = self.mode_of(state)
        if mode == "ignore" or self._capture.open(state.session) is None:
            return
        if mode == "raise" and any(self._rows.hit_through(table_of(each.table)) for each in written):
            raise CaptureError(
                "A SELECT that writes inside a CTE is not captured, and this installation refuses it (bulk='raise')"
            )
        self._notice_written(written)

    def _notice_written(self, statements: Iterable[UpdateBase]) -> None:
        for statement in statements:
            hit = self._rows.hit_through(table_of(statement.table))
            what = f"{verb(statement)} of {'' if hit is None else hit.name} inside a CTE"
            if hit is not None and self._is_news(what):
                warnings.warn(f"{what}: not captured. Run it as a statement of its own", CaptureWarning, stacklevel=2)

    def notice_text(self, state: ORMExecuteState, statement: TextClause) -> None:
        """SQL text that writes, or that changes where names lead."""
        if not _WRITES.match(statement.text):
            self._notice_path(state, statement.text)
            return
        mode = self.mode_of(state)
        if mode == "ignore" or self._capture.open(state.session) is None:
            return
        if mode == "raise":
            raise CaptureError("SQL text that writes is not captured, and this installation refuses it (bulk='raise')")
        if self._is_news(statement.text):
            warnings.warn(
                f"SQL text that writes is not captured: {statement.text.strip()[:60]!r}. Use update(), delete() or "
                f"insert(), or say execution_options({OPTION}='ignore')",
                CaptureWarning,
                stacklevel=2,
            )

    def _notice_path(self, state: ORMExecuteState, text: str) -> None:
        mode = self.mode_of(state)
        if mode != "ignore" and MUTED not in state.session.info:
            self._capture.places.notice(text, refuse=mode == "raise")

    def _is_news(self, what: str) -> bool:
        if what in self._noticed:
            return False
        if len(self._noticed) < 1000:
            self._noticed.add(what)
        return True


def written_by(select: Select[Any]) -> list[UpdateBase]:
    """The statements that write in CTEs which a SELECT names at its top: as FROM, in its columns, joined, or added."""
    named: list[Any] = [*select._independent_ctes, *select._from_obj]
    for column in select._raw_columns:
        named += column._from_objects
    named += [join[0] for join in select._setup_joins]
    return [each.element for each in named if isinstance(each, CTE) and isinstance(each.element, UpdateBase)]


def verb(statement: UpdateBase) -> str:
    """UPDATE, DELETE or INSERT."""
    return statement.__visit_name__.upper()
