"""Log-likelihoods of token sequences from a live model."""
