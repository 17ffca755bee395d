"""Making quantised checkpoints: rounding, GPTQ and AWQ, one decoder layer at a time."""
