"""Tokenizers compared, and models brought to one vocabulary."""
