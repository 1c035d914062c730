"""Language models by family: what each says of itself, and which there are."""
