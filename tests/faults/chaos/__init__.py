"""Break everything at random, and see that nothing was lost: `python -m tests.faults.chaos --seconds 60 --seed N`.

Writers do to a few tables whatever a Session can do. They are killed with -9, from outside and at failpoints, and so
are the relays and the mirror; the connections to broker and database go through proxies that reset and freeze them; the
servers, which are private ones unless URLs are given, are killed, restarted, and made silent with SIGSTOP. At the end
everything is let go, the relays empty the outbox, the mirror its queue. What came is compared with what the database's
own triggers say was committed:

  lost        committed, never received
  unexpected  received, never committed
  disordered  versions of a record that do not rise with its commits
  duplicated  received more than once: with equal id, version and bytes is right, otherwise it is an error
  values      what an event vouches for, and the row did not hold at that commit; operations likewise
  files       of the mirror, that differ from the tables at the end

A run prints its seed; the same seed makes the same faults, as far as two machines can.
"""
