"""What `update()`, `delete()` and `insert()` need, so that a statement becomes changes too, one a row.

`updates`, `deletes` and `inserts` say which rows each took; `rows` has the SELECTs, `returning` what comes back.
"""
