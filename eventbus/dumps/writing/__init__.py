"""Rows into the database: new or known, and what it says of those it refuses."""
