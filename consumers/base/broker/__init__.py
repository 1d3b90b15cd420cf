"""The side of the broker: connections, what is declared on it, what comes from it and what is sent back."""
