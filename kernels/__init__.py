"""Numerics: packed int4 weights, paged attention, KV block movement. A torch reference of every operation."""
