"""The events as the mirror took them in, read by the historian."""
