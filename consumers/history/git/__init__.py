"""The history as a git repository: one commit a transaction, a pure function of `history.sqlite3`."""
