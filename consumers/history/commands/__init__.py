"""What `eventbus history` can be asked and told."""
