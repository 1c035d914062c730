"""Names of files in which a run keeps its recipe and what became of it."""

#: In a run directory: the recipe with all defaults, and what it was run with. In a study's step: what it is.
RECIPE, PROVENANCE, STEP = "recipe.yaml", "provenance.json", "step.json"
#: In a stage's directory: the model folder that it left, and the record that marks the stage as finished.
CHECKPOINT, RESULT = "checkpoint", "result.json"
