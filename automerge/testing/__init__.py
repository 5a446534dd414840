"""Conformance suites for what others add: each is a class of tests that takes one fixture.

They need pytest, which `pip install automerge-llm[test]` brings.
"""

import pytest

pytest.register_assert_rewrite("automerge.testing.methods", "automerge.testing.samplers")

from automerge.testing.methods import MethodLaws  # noqa: E402
from automerge.testing.samplers import SamplerLaws  # noqa: E402

__all__ = ["MethodLaws", "SamplerLaws"]
