"""`history.sqlite3`: transactions, changes, and the newest document of each record with deltas that lead back."""
