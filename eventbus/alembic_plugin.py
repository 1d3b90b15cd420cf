"""For Alembic 1.18 and later: `revision --autogenerate` leaves the outbox's tables alone.

Alembic finds this by its entry point and takes it in by default, as the name begins with `alembic.autogenerate.`. Then

- tables of ours that the database has and `target_metadata` has not (made on first need) are not dropped,
- the `Identity()` of `eventbus_outbox.id`, which SQLite and MariaDB do not know, is no difference there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from eventbus.outbox.tables import metadata

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext
    from alembic.operations.ops import UpgradeOps
    from alembic.runtime.plugins import Plugin
    from alembic.util import PriorityDispatchResult

_OURS: Final = frozenset(metadata.tables)


def setup(plugin: Plugin) -> None:
    """Called by Alembic, which imports this while it is imported itself: hence the imports within functions."""
    from alembic.util import DispatchPriority  # noqa: PLC0415

    plugin.add_autogenerate_comparator(_keep_tables, "schema", priority=DispatchPriority.LAST)
    plugin.add_autogenerate_comparator(_overlook_identity, "column", "server_default", priority=DispatchPriority.FIRST)


def _keep_tables(context: AutogenContext, upgrade: UpgradeOps, schemas: set[str | None]) -> PriorityDispatchResult:
    """Take out again what would drop tables of ours, and what belongs to them."""
    from alembic.operations.ops import DropTableOp, ModifyTableOps  # noqa: PLC0415
    from alembic.util import PriorityDispatchResult  # noqa: PLC0415

    known = {table.name for table in context.sorted_tables}

    def is_to_go(operation: Any) -> bool:
        if isinstance(operation, DropTableOp):
            return operation.table_name in _OURS
        unknown = isinstance(operation, ModifyTableOps) and operation.table_name not in known
        return unknown and operation.table_name in _OURS

    upgrade.ops[:] = [operation for operation in upgrade.ops if not is_to_go(operation)]
    return PriorityDispatchResult.CONTINUE


def _overlook_identity(  # noqa: PLR0917 - as Alembic calls it
    context: AutogenContext,
    alter_column: object,
    schema: str | None,
    table: str,
    column: str,
    found: object,
    wanted: object,
) -> PriorityDispatchResult:
    from alembic.util import PriorityDispatchResult  # noqa: PLC0415

    if table in _OURS and context.dialect.name != "postgresql":
        return PriorityDispatchResult.STOP
    return PriorityDispatchResult.CONTINUE


class _Module(ModuleType):
    """Alembic before 1.20 goes through what the entry point names, as if it were a list of modules."""

    def __iter__(self) -> Iterator[ModuleType]:
        yield self


sys.modules[__name__].__class__ = _Module
