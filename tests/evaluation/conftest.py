from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from automerge.evaluation.generation.vllm.environment import VARIABLE
from tests.evaluation.toys import write_tasks
from tests.evaluation.vllm_environment import NoVllm, found_vllm

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")


@pytest.fixture(scope="session", autouse=True)
def _own_datasets_cache(tmp_path_factory):
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    yield
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory):
    return write_tasks(tmp_path_factory.mktemp("tasks"), items=32, generated=24, texts=9)


@pytest.fixture(scope="module")
def vllm() -> Iterator[str]:
    """The interpreter of an environment with vLLM, named for automerge; skips without one."""
    with pytest.MonkeyPatch.context() as patch:
        try:
            interpreter = found_vllm()
        except NoVllm as error:
            pytest.skip(f"{error}; `make test-vllm` makes an environment")
        patch.setenv(VARIABLE, interpreter)
        yield interpreter
