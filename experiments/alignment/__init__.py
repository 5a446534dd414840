"""Alignments of models that were trained apart."""
