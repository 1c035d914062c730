"""What a recipe takes before any of it is run: parameters, tokens, operations, memory, hours."""
