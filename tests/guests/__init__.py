"""Other people's programs and test suites, run bare and with the bus on every Session."""
