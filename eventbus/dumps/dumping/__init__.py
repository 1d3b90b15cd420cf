"""From the rows of a database to a file."""
