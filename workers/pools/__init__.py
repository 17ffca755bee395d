"""The prefill worker, the decode worker and what passes between them."""
