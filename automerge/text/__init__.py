"""Text for people: secrets hidden, control characters made harmless, on any terminal."""
