"""Language models by family: what is particular to each, and their registry."""
