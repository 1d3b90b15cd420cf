"""The publishing side: rows are read, deleted and parked; leases say who may."""
