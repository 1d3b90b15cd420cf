"""What the pytest plugin gives to tests: captured events, the whole chain, kills at failpoints."""
