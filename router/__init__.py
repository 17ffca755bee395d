"""Routing decisions: pure, synchronous, without Ray. Index and loads in, a ranking of workers out."""
