"""Scores by a user's own function of model, tokenizer and items."""
