"""Continuous batching over paged KV: schedule, launch, collect."""
