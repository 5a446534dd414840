"""`python -m automerge.cli`."""

from automerge.cli import main

if __name__ == "__main__":
    main()
