"""Where a method's kernel runs: compiled loops, CUDA."""
