"""The whole way, from a commit to a durable file or to Redis: `python -m benchmarks.chain --help`."""
