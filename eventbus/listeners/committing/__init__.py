"""From what a transaction recorded to its outbox row, and to what follows the commit."""
