"""What a process knows of each outbox: rows to be read back, taken over, parked and deleted, and who lives."""
