"""From the bytes of a message to an event that a handler may see, or to a letter that says why not."""
