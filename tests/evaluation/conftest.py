"""What tests of judges share."""

from collections.abc import Iterator

import pytest
from scripted_endpoint import Endpoint

from olivine.evaluation.judge import KEY_VARIABLE


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """A local chat endpoint that the environment's proxies and key do not reach."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    served = Endpoint()
    yield served
    served.close()
