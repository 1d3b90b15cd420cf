"""Records out of files: opened, cut, each with its place."""
