"""Forgetting, shortening and checking the history."""
