"""Texts from a live model."""
