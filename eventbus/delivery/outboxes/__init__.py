"""What a process knows of each outbox: rows to be read back, taken over, parked and deleted, and who lives.

`liveness` decides that an owner is dead, for dispatchers and relays alike; `sweep` then takes its rows over.
"""
