"""The process: how it forks, how it is asked to end, and the points at which tests kill it."""
