"""In which schema the rows of each entity are written: a record's name does not tell, so there must be one.

A schema for each tenant (`schema_translate_map`, or engines with a `search_path` each) has the same keys in each. One
installation would make one record of two rows, so that is refused before anything is written.
"""

from __future__ import annotations

import re
import warnings
from typing import Any, Final

from sqlalchemy import Connection

from eventbus.errors import CaptureError, CaptureWarning
from eventbus.events.change import Entity

_PATH: Final = re.compile(
    r"\s*(?:set\s+(?:local\s+|session\s+)?search_path\b|select\s+(?:pg_catalog\.)?set_config\s*\(\s*'search_path'|use\s+\S)",
    re.IGNORECASE,
)
_ADVICE: Final = (
    "A record's name does not tell them apart. Give each tenant a sessionmaker of its own, and install() each with a "
    "service of its own (service='crm-north')"
)


class Places:
    """The schema of each entity, as it was first written, and the first choice of one that was sent as text."""

    def __init__(self) -> None:
        self._schemas: dict[Entity, str | None] = {}
        self._chosen: str | None = None

    def check(self, entity: Entity, connection: Connection) -> None:
        """Raise CaptureError if these rows are in another schema than those before."""
        schema = _schema_of(entity.table.schema, connection)
        first = self._schemas.setdefault(entity, schema)
        if first != schema:
            raise CaptureError(
                f"{entity.name}: rows of the schema {schema!r} are written, where they were of {first!r} before. "
                f"{_ADVICE}"
            )

    def notice(self, text: str, *, refuse: bool) -> None:
        """A statement that chooses a schema for what follows: the first may be the only one there is."""
        if not _PATH.match(text):
            return
        first, self._chosen = self._chosen, self._chosen or text.strip()
        if first is None or first == text.strip():
            return
        what = f"{text.strip()[:60]!r} chooses another schema than {first[:60]!r} before. {_ADVICE}"
        if refuse:
            raise CaptureError(f"{what}: this installation refuses it (bulk='raise')")
        warnings.warn(what, CaptureWarning, stacklevel=2)


def _schema_of(own: str | None, connection: Connection) -> Any:
    translated = connection._execution_options.get("schema_translate_map")
    schema = translated.get(own, own) if translated else own
    if schema is None and connection.dialect.name == "postgresql":
        return connection.dialect.default_schema_name  # as the engine's first connection found it
    return schema
