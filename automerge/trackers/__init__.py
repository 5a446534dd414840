"""Experiment trackers that a search reports to: one module each, listed in `table.py`."""
