"""One server of tiny models for all tests that do not need limits of their own."""

from serving_model import served, tiny

__all__ = ["served", "tiny"]
