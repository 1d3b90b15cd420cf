"""What a service promises to its readers: JSON Schemas of its events in an AsyncAPI document, and their changes."""
