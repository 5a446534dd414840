"""How far a model's predictions are from its base's, on text."""
