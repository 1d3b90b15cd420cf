"""Servers of a test's own: started on free ports, killed and restarted at will, gone afterwards."""
