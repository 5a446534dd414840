"""A worker: it merges and scores, and turns failures into values."""
