"""Text for people: secrets hidden, foreign characters made harmless, any terminal served."""
