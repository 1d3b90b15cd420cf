"""Decimals, as databases round them."""

from __future__ import annotations

import decimal
from typing import Any, Final

CONTEXT: Final = decimal.Context(prec=1_100, rounding=decimal.ROUND_HALF_UP)
"""Databases round halves away from zero; PostgreSQL keeps up to 1,000 digits."""


def to_decimal(value: Any) -> decimal.Decimal:
    """Any number, or text of one, as a Decimal; a float by its shortest text."""
    if value.__class__ is decimal.Decimal:
        return value
    return decimal.Decimal(value if isinstance(value, decimal.Decimal) else str(value))
