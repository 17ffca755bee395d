"""Decoder models on shared layers."""
