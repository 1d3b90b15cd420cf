"""One load: every record in its time, and what must hold before it is kept."""
