"""What is put off while libraries are imported goes on afterwards, unless it was off before."""

from __future__ import annotations

import gc

import pytest

from automerge.machine.imports import importing


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_is_looked_for_again_after_an_import_that_fails_too(enabled: bool) -> None:
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with importing(), importing():
            assert not gc.isenabled()
        assert gc.isenabled() is enabled
        with pytest.raises(ImportError), importing():
            raise ImportError
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()
