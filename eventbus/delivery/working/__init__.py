"""The dispatcher's thread at work: what it takes in, sends, and does about what is refused."""
