"""Where a method's kernel runs: `base` is the contract, `host` the order of trying."""
