"""Talking to a model: an OpenAI-compatible server, a web page, a terminal chat.

Scoring a model on benchmarks is in `evaluation`; imports nothing itself, so that the extra `serve` is needed by the
server alone.
"""
