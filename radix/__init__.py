"""Prefix structures over chained block hashes. No torch, no Ray: plain data structures that any process can hold."""
