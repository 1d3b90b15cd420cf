"""From what a transaction recorded to its outbox row, and to what follows the commit.

`transaction` hears the end of each transaction and savepoint, whichever it is: it publishes, merges or drops.
`missing_values` reads what is not known yet, `encoding` makes the events, `outer` waits for a Connection's own commit.
"""
