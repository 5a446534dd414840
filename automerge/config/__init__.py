"""YAML and command-line options → one validated configuration, or every fault at once."""

from automerge.config.load import OPTIONS, load_config, load_with_options
from automerge.config.resume import Difference, differences
from automerge.config.settings import StudyConfig

__all__ = [
    "OPTIONS",
    "Difference",
    "StudyConfig",
    "differences",
    "load_config",
    "load_with_options",
]
