"""Questions to the history. Read-only, beside a running historian or on a copy of the file."""
