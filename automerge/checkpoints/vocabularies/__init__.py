"""Compare tokenizers, and align models to one vocabulary."""
