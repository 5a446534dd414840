"""Samplers: who proposes the next parameters."""
