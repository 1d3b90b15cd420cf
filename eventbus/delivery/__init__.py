"""After the commit: from the outbox and from memory to the broker, in a thread that no writer waits for."""
