"""The work of a consumer: one connection after another, batches, outcomes, dead letters."""
