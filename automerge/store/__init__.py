"""The truth on disk: run folder, store and what is read back from it."""
