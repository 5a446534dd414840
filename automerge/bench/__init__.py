"""Benchmarks that users can run: the cost of merging and scoring, compared with a lower bound."""
