"""A server under many requests, too many requests, and updates: what is left afterwards, and what clients notice."""
