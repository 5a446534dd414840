"""Answers by a vLLM engine that runs in its own process, under its own interpreter."""
