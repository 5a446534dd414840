"""Benchmarks users can run: what merging costs on this machine, beside its physical limit."""
