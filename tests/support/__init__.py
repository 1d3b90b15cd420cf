"""What tests stand on: real services, found or started, and a network that can be broken on purpose."""
