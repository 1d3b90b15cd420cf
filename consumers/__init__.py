"""What runs on the other side of the broker: the base of any consumer, the JSON mirror, the dead letters' command."""
