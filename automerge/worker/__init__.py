"""What a worker is: it merges and scores, and turns failures into values."""
