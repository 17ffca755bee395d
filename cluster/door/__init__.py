"""The front door: from a checked request to the pools, and from tokens to text."""
