"""How far a search gets: zoos, a harness and tables."""
