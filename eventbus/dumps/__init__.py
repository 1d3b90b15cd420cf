"""Dumps: lists of records, in files of every kind, and their way from and to the rows of models."""
