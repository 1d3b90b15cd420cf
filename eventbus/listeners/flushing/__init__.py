"""What one flush did to the rows of its objects."""
