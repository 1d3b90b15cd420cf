"""`eventbus web`: the mirror in a browser: records, live changes, history, dead letters. See `app` and `command`."""
