"""The side of the broker: connections, what is declared on it, what comes from it and what is sent back.

`topology` declares and binds, once more where somebody deleted it; `dead_letter_queue` sends dead letters again.
"""
