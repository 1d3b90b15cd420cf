"""What one flush did to the rows of its objects: `flush` walks over them, by the `plan` of each class."""
