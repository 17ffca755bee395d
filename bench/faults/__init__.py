"""Faults injected into a real cluster, and what its clients notice of them."""
