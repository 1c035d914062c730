"""Layouts of published models, one a file; which there are is in `registry`."""
