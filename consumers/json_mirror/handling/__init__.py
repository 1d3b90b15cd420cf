"""What the handler has in hand: what a batch says, the files it has yet to write, how the mirror is."""
