"""What is published of a record: which columns, under which names, as which JSON.

`schemas.published` decides which columns stay home, and asks `sensitive` for names that look like secrets.
"""
