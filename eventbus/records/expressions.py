"""SQL expressions in the place of values: an attribute may be set to one, and a bound parameter stays on the object."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ClauseElement


def is_expression(value: Any) -> bool:
    """Whether only the database knows what this is."""
    return isinstance(value, ClauseElement) or hasattr(value, "__clause_element__")


def refuse_expression(value: Any) -> None:
    """Raise TypeError for an expression, which whoever converts the value could take for one."""
    if is_expression(value):
        raise TypeError("is an SQL expression")
