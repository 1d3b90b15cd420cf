"""`eventbus compare`: a database's rows held against a mirror, and what differs published again."""
