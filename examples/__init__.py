"""Small programs that use eventbus as a user would."""
