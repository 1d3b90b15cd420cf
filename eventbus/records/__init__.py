"""What is published of a record: which columns, under which names, as which JSON."""
