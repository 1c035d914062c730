"""What a server counts, for Prometheus.

The numbers come from `app` and `worker`.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE

from olivine.serving.served_model import ServedModel

__all__ = ["CONTENT_TYPE", "Metrics"]

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The counters of one server.

    Args:
        models: what is served.
    """

    def __init__(self, models: list[ServedModel]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "olivine_requests", "Chat completion requests by status code.", ["status"], registry=self.registry
        )
        self.seconds = Histogram(
            "olivine_request_seconds", "From arrival to last token.", buckets=_SECONDS, registry=self.registry
        )
        self.prompt_tokens = Counter("olivine_prompt_tokens", "Tokens of prompts.", registry=self.registry)
        self.cached_tokens = Counter(
            "olivine_cached_prompt_tokens", "Tokens of prompts that were not run again.", registry=self.registry
        )
        self.answer_tokens = Counter("olivine_answer_tokens", "Tokens of answers.", registry=self.registry)
        self.disconnects = Counter("olivine_disconnects", "Requests whose client went away.", registry=self.registry)
        self.batch = Histogram(
            "olivine_batch_answers", "Answers that are written together.", buckets=_SIZES, registry=self.registry
        )
        kept = Gauge("olivine_cache_bytes", "Bytes kept for later requests.", ["model", "what"], registry=self.registry)
        for model in models:
            kept.labels(model.name, "image features").set_function(_bytes_of(model.prefiller.features))
            kept.labels(model.name, "prompt prefixes").set_function(_bytes_of(model.prefiller.prefixes))

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a number that is read when it is asked for."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """Return all numbers in Prometheus' text format."""
        return generate_latest(self.registry)


def _bytes_of(cache: object) -> Callable[[], float]:
    return lambda: float(getattr(cache, "bytes", 0))
