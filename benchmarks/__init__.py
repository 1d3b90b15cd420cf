"""What the README claims, measured; each module is a command with `--help`."""
