"""What happens in the Session: auto-fields before the flush, capture after it, one outbox row at the commit.

`base` has the moments and registers listeners for them, in order; the others are listeners or values they share.
"""
