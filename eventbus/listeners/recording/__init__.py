"""What one transaction has recorded so far, and on which connections it can be recorded.

`ledger` has a `frame` for the transaction and for each savepoint. A frame that is dropped takes back all it has
recorded; `committing.transaction` drops it. `database_rollback` notices rollbacks that no Session has asked for.
"""
