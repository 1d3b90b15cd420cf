"""A model is met for the first time: whether it is captured, and what its entity is made of."""
