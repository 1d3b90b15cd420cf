"""The SQL of a load: texts with the driver's placeholders, for rows that are tuples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from sqlalchemy import Column, Table
from sqlalchemy.engine import Dialect

from eventbus.dumps.facts import MYSQL, TableFacts
from eventbus.dumps.forms import Form
from eventbus.dumps.inheritance import ONLY, is_alone
from eventbus.dumps.rows.groups import Group


class Statements:
    """Writes statements for one database."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._quote = dialect.identifier_preparer

    def insert(self, group: Group) -> str:
        """An INSERT of a group's rows, with the values of its defaults behind them. It never replaces a row."""
        made = [each for each in group.defaults if each.make is not None]
        expressions = [each for each in group.defaults if each.make is None]
        columns = [*group.columns, *(each.column for each in made), *(each.column for each in expressions)]
        if not columns:
            return f"INSERT INTO {self.table(group.table)} {self._nothing()}"
        parameters = self._parameters()
        values = [form.put.format(p=next(parameters)) for form in group.forms]
        values += [next(parameters) for _ in made] + [each.sql for each in expressions]
        verb = "INSERT OR ABORT" if self._dialect.name == "sqlite" else "INSERT"
        keys = " OVERRIDING SYSTEM VALUE" if self._dialect.name == "postgresql" else ""
        names = ", ".join(map(self.name, columns))
        return f"{verb} INTO {self.table(group.table)} ({names}){keys} VALUES ({', '.join(values)})"

    def _nothing(self) -> str:
        return "() VALUES ()" if self._dialect.name in MYSQL else "DEFAULT VALUES"

    def update(self, group: Group, facts: TableFacts) -> tuple[str, list[int]] | None:
        """An UPDATE by the key, and the places in a row of its parameters; None where there is nothing to set.

        What a row does not give stays: also where the model or the table has a value for every change.
        """
        parameters = self._parameters()
        places = [
            place
            for place, column in enumerate(group.columns)
            if place not in group.key and not facts.column(column.name).identity
        ]
        if not places:
            return None
        given = {column.name for column in group.columns}
        settings = self._settings(group, places, parameters)
        settings += [
            f"{self._name(name)} = {self._name(name)}"
            for name, each in facts.columns.items()
            if each.touched and name not in given
        ]
        where = self._settings(group, group.key, parameters)
        text = f"UPDATE {self.rows(group.table)} SET {', '.join(settings)} WHERE {' AND '.join(where)}"  # noqa: S608 - names and marks
        return text, [*places, *group.key]

    def set_one(self, group: Group, column: Column[Any]) -> str:
        """An UPDATE of one column of the row of one primary key."""
        parameters = self._parameters()
        setting = self._settings(group, [group.columns.index(column)], parameters)
        primary = [group.columns.index(each) for each in group.table.primary_key]
        where = self._settings(group, primary, parameters)
        return f"UPDATE {self.rows(group.table)} SET {setting[0]} WHERE {' AND '.join(where)}"  # noqa: S608 - names and marks

    def _settings(self, group: Group, places: Sequence[int], parameters: Iterator[str]) -> list[str]:
        """`name = value` for columns of a group."""
        return [f"{self.name(group.columns[p])} = {group.forms[p].put.format(p=next(parameters))}" for p in places]

    def plain_insert(self, table: Table, columns: Sequence[Column[Any]], forms: Sequence[Form]) -> str:
        """An INSERT of these columns."""
        parameters = self._parameters()
        names = ", ".join(map(self.name, columns))
        values = ", ".join(form.put.format(p=next(parameters)) for form in forms)
        return f"INSERT INTO {self.table(table)} ({names}) VALUES ({values})"  # noqa: S608 - names and marks

    def delete(self, group: Group) -> str:
        """A DELETE of the row of one key."""
        where = self._settings(group, group.key, self._parameters())
        return f"DELETE FROM {self.rows(group.table)} WHERE {' AND '.join(where)}"  # noqa: S608 - names and marks

    def known(
        self,
        columns: Sequence[Column[Any]],
        forms: Sequence[Form],
        rows: int,
        shown: Sequence[tuple[Column[Any], Form]] = (),
    ) -> str:
        """A SELECT of the rows of so many keys; `shown` are the columns wanted (else those of the key)."""
        wanted = shown or list(zip(columns, forms, strict=True))
        what = ", ".join(self.shown(column, form) for column, form in wanted)
        names = [self.name(column) for column in columns]
        parameters = self._parameters()
        keys = [[form.put.format(p=next(parameters)) for form in forms] for _ in range(rows)]
        table = self.rows(columns[0].table)
        if len(names) == 1:
            marks = ", ".join(key for (key,) in keys)
            return f"SELECT {what} FROM {table} WHERE {names[0]} IN ({marks})"  # noqa: S608 - names and marks
        tuples = ", ".join(f"({', '.join(key)})" for key in keys)
        values = f"VALUES {tuples}" if self._dialect.name == "sqlite" else tuples
        return f"SELECT {what} FROM {table} WHERE ({', '.join(names)}) IN ({values})"  # noqa: S608 - names and marks

    def value(self, form: Form) -> str:
        """A SELECT of one value as it would be put into its column."""
        return f"SELECT {form.put.format(p=next(self._parameters()))}"

    def shown(self, column: Column[Any], form: Form) -> str:
        """A column as its form selects it."""
        return str(form.show(column).compile(dialect=self._dialect))

    def table(self, table: Table) -> str:
        """The quoted name of a table."""
        return self._quote.format_table(table)

    def rows(self, table: Table) -> str:
        """What a SELECT, UPDATE or DELETE of the rows that a table stands for calls it."""
        only = f"{ONLY} " if self._dialect.name == "postgresql" and is_alone(table) else ""
        return only + self.table(table)

    def name(self, column: Column[Any]) -> str:
        """The quoted name of a column."""
        return self._quote.format_column(column)

    def _name(self, name: str) -> str:
        return self._quote.quote(name)

    def _parameters(self) -> Iterator[str]:
        style = self._dialect.paramstyle
        if style == "qmark":
            return iter(lambda: "?", None)
        if style in ("numeric", "numeric_dollar"):
            mark = "$" if style == "numeric_dollar" else ":"
            return (f"{mark}{number}" for number in count(1))
        return iter(lambda: "%s", None)
