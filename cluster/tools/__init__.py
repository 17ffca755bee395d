"""Tool calls: what a request offers, and how they are found in a model's text."""
