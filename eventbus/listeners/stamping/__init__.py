"""What new and changed objects are given before the flush: ids, authors, times."""
