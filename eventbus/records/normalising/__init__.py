"""What a database gives back of a value that was put into a column.

A session holds the value the application assigned (`5` in a `Numeric(10, 2)`), the table holds another (`5.00`).
An event says what the table holds, so each value goes through its column's `normaliser` first. A normaliser is
idempotent: for a value read back from the database it changes nothing, so that an event is the same whichever of the
two was at hand.

A value of a subclass (a date of pendulum's, a text of one's own) is asked by the methods of the class it is a kind of:
what the subclass makes of them is the application's.

Known limits: a naive time in a `timezone=True` column of PostgreSQL is taken as UTC (the server takes the zone of its
session); fractions of a second are cut off on `mysql` as MariaDB does (MySQL itself rounds); PostgreSQL's
jsonb gives a whole float over 2^53 back as an integer; what a trigger, a collation, a domain or a custom storage format
makes of a value is not foreseen.
"""
