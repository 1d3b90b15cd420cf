"""What a commit costs, each contender in processes of its own: `python -m benchmarks.writer --help`."""
