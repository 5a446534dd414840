"""The truth on disk: the run folder, the store, and what is read back from it."""
