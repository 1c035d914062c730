"""One server of tiny models for all tests that do not need limits of their own."""

from tests_serving import served, tiny

__all__ = ["served", "tiny"]
