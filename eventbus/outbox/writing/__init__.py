"""The writer's side: one INSERT in the writer's transaction, in the words of each database."""
