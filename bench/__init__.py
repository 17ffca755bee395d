"""Measurements. Each module prints a table, or JSON with --json; results and commands are in docs/."""
