"""Where a method's kernel runs: the contract is in `base`, the order of trying in `host`."""
