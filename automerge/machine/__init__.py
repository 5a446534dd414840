"""What this machine is: its processors and its arithmetic."""
