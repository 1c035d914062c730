"""Models of other tools in, and models for other tools out; each way ends in a proof that both answer alike."""
