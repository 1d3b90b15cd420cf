"""A mirror of the current records: a directory with one JSON file each, and a cache. See `service` and `command`."""
