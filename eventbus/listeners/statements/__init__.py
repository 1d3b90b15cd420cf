"""What `update()`, `delete()` and `insert()` need, so that a statement becomes changes too, one a row."""
