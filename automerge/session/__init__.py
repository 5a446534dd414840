"""From a configuration to a study that can run."""
