"""What one transaction has recorded so far, and on which connections it can be recorded."""
