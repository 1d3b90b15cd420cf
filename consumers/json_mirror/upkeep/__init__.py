"""What brings files and state together again: after a crash, on request, and when the disk has caught up."""
