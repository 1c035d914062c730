"""One thread per test: these models are so small that two threads mostly wait for each other."""

import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(2)
