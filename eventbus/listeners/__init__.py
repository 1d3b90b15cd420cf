"""What happens in the Session: auto-fields before the flush, capture after it, one outbox row at the commit.

`base` has the moments and registers listeners for them, in order; each other module is a listener or a value they share.
"""
