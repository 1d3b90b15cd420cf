"""`include=` and `exclude=`: which models and tables are captured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Table, inspect
from sqlalchemy.sql.selectable import FromClause

from eventbus.events import naming


class Selection:
    """What `include` and `exclude` name: models, tables or entity names. With `include` nothing else is captured."""

    def __init__(self, include: Iterable[Any] = (), exclude: Iterable[Any] = ()) -> None:
        self._include, self._exclude = _Named(include), _Named(exclude)

    @property
    def models(self) -> tuple[Any, ...]:
        """The classes that are named."""
        return (*self._include.models, *self._exclude.models)

    def wants(self, name: str, model: type[Any] | None, table: FromClause) -> bool:
        """Whether the records of this class or table are captured."""
        if self._include and not self._include.holds(name, model, table):
            return False
        return not self._exclude.holds(name, model, table)

    def includes(self, table: Any) -> bool:
        """Whether `include` names this table."""
        return isinstance(table, Table) and self._include.holds(naming.quote(table.name), None, table)

    def excludes(self, table: Any) -> bool:
        """Whether `exclude` names this table, its class or one of its name."""
        return getattr(table, "name", None) in self._exclude.table_names

    def unknown(self, known: set[str]) -> Iterator[tuple[str, str]]:
        """Option and name, for each name that is none of these."""
        for option, named in (("include", self._include), ("exclude", self._exclude)):
            for name in sorted(named.names - known):
                yield option, name


class _Named:
    """Models, tables and entity names, as one of the two gives them."""

    def __init__(self, items: Iterable[Any]) -> None:
        items = list(items)
        self.names = {item for item in items if isinstance(item, str)}
        self.tables = {item for item in items if isinstance(item, Table)}
        self.models = tuple(item for item in items if not isinstance(item, str | Table))

    @property
    def table_names(self) -> set[str]:
        """What tables are called that are named here, themselves or by their class."""
        mapped = {inspect(model).local_table for model in self.models}
        return {*self.names, *(str(getattr(table, "name", "")) for table in {*mapped, *self.tables})}

    def __bool__(self) -> bool:
        return bool(self.names or self.tables or self.models)

    def holds(self, name: str, model: type[Any] | None, table: FromClause) -> bool:
        if name in self.names or table in self.tables:
            return True
        return model is not None and issubclass(model, self.models)
