"""Continuous batching over paged KV: schedule, run, post-process."""
