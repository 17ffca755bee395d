"""Reading checkpoints into packed weights."""
