"""What a Session's statement really sends: the UPDATE, DELETE or INSERT as it goes to the driver.

Between the program's statement and the driver other listeners may replace it, SQLAlchemy adds criteria, defaults and
tables, and routes it to an engine. So nothing is told from what the program has written; all from what is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Alias, BindParameter, ClauseElement, Insert, TypeDecorator
from sqlalchemy.engine.interfaces import ExecuteStyle
from sqlalchemy.sql import operators
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.elements import BinaryExpression, BooleanClauseList, _truncated_label
from sqlalchemy.sql.util import _deep_deannotate
from sqlalchemy.sql.visitors import replacement_traverse

from eventbus.events.change import MISSING
from eventbus.listeners.statements.rows import Hit
from eventbus.listeners.statements.stability import is_volatile, writes


class Sent:
    """One statement on its way to the driver.

    `many`: it has several sets of parameters, which the driver runs one by one.
    """

    __slots__ = ("_compiled", "context", "many", "state", "statement", "table")

    def __init__(self, context: Any) -> None:
        self.context = context
        self._compiled = context.compiled
        self.state = self._compiled.dml_compile_state
        self.statement = self.state.statement
        self.table = table_of(self.state.dml_table)
        self.many = context.execute_style is ExecuteStyle.EXECUTEMANY

    @property
    def verb(self) -> str:
        context = self.context
        return "insert" if context.isinsert else "update" if context.isupdate else "delete"

    @property
    def parameters(self) -> list[dict[str, Any]]:
        """The values of each set, by the names of bound parameters: defaults of Python are among them."""
        parameters: list[dict[str, Any]] = self.context.compiled_parameters
        return parameters

    @property
    def schemas(self) -> Any:
        return self.context.execution_options.get("schema_translate_map")

    @property
    def other_tables(self) -> bool:
        """Whether it joins other tables."""
        return bool(getattr(self.state, "_extra_froms", None))

    @property
    def named(self) -> Any:
        """The table as it is named: itself, or an alias of it."""
        named = self.state.dml_table
        return named if isinstance(named, Alias) else self.table

    @property
    def alias(self) -> str | None:
        """What the statement calls its table, where columns have to be told from those of others."""
        if self.context.isinsert or not self.other_tables:
            return None
        name = self.state.dml_table.name
        if isinstance(name, _truncated_label):
            name = self._compiled._truncated_identifier("alias", name)
        return str(name)

    @property
    def inner(self) -> list[UpdateBase]:
        """The statements in its CTEs that write."""
        return [each.element for each in self._compiled.ctes or () if isinstance(each.element, UpdateBase)]

    def gives_back(self) -> bool:
        """Whether it may have a RETURNING, of its own or of ours."""
        if self._compiled.effective_returning:
            return not self.many
        dialect, verb = self.context.dialect, self.verb
        if self.many or not self.table.implicit_returning or not getattr(dialect, f"{verb}_returning"):
            return False
        if verb != "insert" and self.other_tables:
            return bool(getattr(dialect, f"{verb}_returning_multifrom"))
        return True

    def sets(self, hit: Hit) -> dict[str, Any]:
        """The attribute keys that an UPDATE sets, with their values: MISSING where the database computes them."""
        sets: dict[str, Any] = {}
        for column, value in (self.state._dict_parameters or {}).items():
            if (name := hit.name_of(column)) is not None:
                sets[name] = self._literal(value)
        for key in self._compiled.column_keys or ():
            if (name := hit.name_of(key)) is not None and key in self.parameters[0]:
                sets.setdefault(name, MISSING if self.many else self.parameters[0][key])
        for column in (*self._compiled.update_prefetch, *self._compiled.postfetch):
            if (name := hit.name_of(column)) is not None:
                sets.setdefault(name, MISSING)
        return sets

    def new_values(self, hit: Hit) -> list[dict[str, Any]]:
        """What each of many sets of parameters sets, by attribute key, where it is given as a value."""
        bound = {column: self._bound(value) for column, value in (self.state._dict_parameters or {}).items()}
        bound |= {key: key for key in self._compiled.column_keys or ()}
        key_of = self._compiled._within_exec_param_key_getter
        bound |= {column: key_of(column) for column in self._compiled.update_prefetch}
        pairs = [(hit.name_of(column), name) for column, name in bound.items()]
        return [
            {key: given[name] for key, name in pairs if key is not None and name in given} for given in self.parameters
        ]

    def set_in_others(self) -> Iterator[Any]:
        """The columns of other tables that it sets too (MySQL)."""
        for column in self.state._dict_parameters or {}:
            table = getattr(column, "table", None)
            if table is not None and table_of(table) is not self.table:
                yield column

    def keys(self, hit: Hit) -> list[tuple[Any, ...]] | None:
        """The primary key that each set of parameters names, where the WHERE asks for it by equality."""
        names = [self._bound_to(column) for column in hit.key]
        if None in names:
            return None
        return [tuple(each[name] for name in names) for each in self.parameters]  # type: ignore[index]

    def _bound_to(self, column: Any) -> str | None:
        for each in _conjuncts(self.statement._where_criteria):
            if isinstance(each, BinaryExpression) and each.operator is operators.eq:
                left, right = each.left._deannotate(), each.right
                if left is column and isinstance(right, BindParameter):
                    return self._name(right)
        return None

    def criteria(self, number: int = 0) -> list[Any]:
        """What the WHERE asks for at once, with the values of one set of parameters in the place of bound ones."""
        return self._with_values(_conjuncts(self.statement._where_criteria), number)

    def selected(self) -> Any:
        """The SELECT whose rows an INSERT takes, likewise; None where it may not be asked twice."""
        select = self.statement.select
        if self.many or is_volatile(select) or writes(select):
            return None
        return self._with_values([select], 0)[0]

    def _with_values(self, elements: Iterable[Any], number: int) -> list[Any]:
        values = self._values(number)

        def bound(element: Any, **_: Any) -> Any:
            name = self._name(element) if isinstance(element, BindParameter) else None
            if name is None or name not in values:
                return None
            return BindParameter(
                None, values[name], type_=element.type, unique=True, expanding=element.expanding,
                literal_execute=element.literal_execute,
            )  # fmt: skip

        return [_deep_deannotate(replacement_traverse(each, {}, bound)) for each in elements]

    def _values(self, number: int) -> dict[str, Any]:
        made = self._compiled.construct_params(
            extracted_parameters=self.context.extracted_parameters, escape_names=False, _check=False
        )
        given = self.parameters[number]
        values = {**made, **given}
        for name, parts in self.context._expanded_parameters.items():
            if values.get(name) is None and all(part in given for part in parts):
                values[name] = [given[part] for part in parts]
        return values

    def _bound(self, value: Any) -> str | None:
        return self._name(value) if isinstance(value, BindParameter) else None

    def _name(self, parameter: BindParameter[Any]) -> str | None:
        # SQLAlchemy compiles copies of some.
        names, copies = self._compiled.bind_names, self._compiled.binds
        name: str | None = names.get(parameter) or names.get(copies.get(parameter.key))
        return name or (parameter.key if parameter.key in copies else None)

    def _literal(self, value: Any) -> Any:
        if isinstance(value, BindParameter):
            name = self._name(value)
            return MISSING if name is None or self.many else self.parameters[0].get(name, MISSING)
        return MISSING if isinstance(value, ClauseElement) or hasattr(value, "__clause_element__") else value


def table_of(table: Any) -> Any:
    """What a statement names, without annotations and aliases."""
    table = getattr(table, "_deannotate", lambda: table)()
    while isinstance(table, Alias):
        table = table.element._deannotate()
    return table


def _conjuncts(criteria: Iterable[Any]) -> Iterator[Any]:
    """All that has to hold at once."""
    for each in criteria:
        if isinstance(each, BooleanClauseList) and each.operator is operators.and_:
            yield from _conjuncts(each.clauses)
        else:
            yield each


def is_upsert(statement: Insert) -> bool:
    """Whether the INSERT may leave rows alone, or change them, instead of failing on a key that is taken."""
    return statement._post_values_clause is not None or bool(statement._prefixes)


def lacks_keys(columns: Sequence[Any], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether some row to insert does not hold its primary key as the database will give it back."""
    return not all(_are_held((row.get(column.key) for row in rows), column.type) for column in columns)


def _are_held(values: Iterable[Any], type_: Any) -> bool:
    if isinstance(type_, TypeDecorator) or type_._has_bind_expression:
        return False
    try:
        expected = type_.python_type
    except NotImplementedError:
        expected = object
    return all(value is not None and isinstance(value, expected) for value in values)
