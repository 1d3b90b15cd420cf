"""One service in each of the usual frameworks; see docs/frameworks.md."""
