"""A help desk: tickets, and what becomes of them. Typed as strictly as mypy and pyright can be."""
