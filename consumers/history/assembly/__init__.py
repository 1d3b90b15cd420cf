"""Events put together to transactions, and transactions put in order. No I/O: time and knowledge come from outside."""
