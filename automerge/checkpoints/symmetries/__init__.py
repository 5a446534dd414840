"""What may be permuted or rotated in a model without changing its function: alignment by it."""
