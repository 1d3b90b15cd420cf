"""The event: its envelope, its names, its ids, and what it says of its circumstances."""
