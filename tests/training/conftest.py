"""Fixtures shared by the tests of training."""

import pytest

from olivine.testing import write_dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("dataset"), items=30)
