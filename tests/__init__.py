"""Tests, one file per module under test; `helpers` holds what several of them share."""
