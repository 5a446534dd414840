"""Executors: where jobs are measured."""

EXECUTORS = ("local", "ray")
