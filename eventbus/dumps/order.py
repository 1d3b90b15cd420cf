"""In which order tables are written: what others refer to comes first, and tables in a circle stand together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from sqlalchemy import ForeignKeyConstraint, Table
from sqlalchemy.exc import SQLAlchemyError


def table_order(tables: Iterable[Table]) -> tuple[list[Table], frozenset[ForeignKeyConstraint]]:
    """The tables, each after those it refers to, and the constraints for which that cannot be.

    Those lead to the own table, or around a circle. The order rests on names alone, so it is the same every time.
    """
    chosen = sorted(tables, key=lambda table: table.fullname)
    inside = set(chosen)
    references = {
        table: sorted(
            {
                parent
                for each in table.foreign_key_constraints
                if (parent := referred(each)) in inside and parent is not None
            },
            key=lambda parent: parent.fullname,
        )
        for table in chosen
    }
    order: list[Table] = []
    late: set[ForeignKeyConstraint] = set()
    for circle in circles(references):
        order += circle
        late.update(each for table in circle for each in table.foreign_key_constraints if referred(each) in set(circle))
    return order, frozenset(late)


def referred(constraint: ForeignKeyConstraint) -> Table | None:
    """The table a constraint leads to; None where the models do not have it."""
    try:
        return constraint.referred_table
    except SQLAlchemyError:
        return None


def circles(references: Mapping[Table, list[Table]]) -> Iterator[list[Table]]:
    """The strongly connected components, those that are referred to first; sorted by name within each."""
    number: dict[Table, int] = {}
    lowest: dict[Table, int] = {}
    stack: list[Table] = []
    waiting: set[Table] = set()
    for start in references:
        if start in number:
            continue
        path = [(start, iter(references[start]))]
        while path:
            table, parents = path[-1]
            if table not in number:
                number[table] = lowest[table] = len(number)
                stack.append(table)
                waiting.add(table)
            for parent in parents:
                if parent not in number:
                    path.append((parent, iter(references[parent])))
                    break
                if parent in waiting:
                    lowest[table] = min(lowest[table], number[parent])
            else:
                path.pop()
                if path:
                    lowest[path[-1][0]] = min(lowest[path[-1][0]], lowest[table])
                if lowest[table] == number[table]:
                    yield _popped(stack, waiting, table)


def _popped(stack: list[Table], waiting: set[Table], last: Table) -> list[Table]:
    place = stack.index(last)
    found = stack[place:]
    del stack[place:]
    waiting.difference_update(found)
    return sorted(found, key=lambda table: table.fullname)
