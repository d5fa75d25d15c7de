"""The judge stage: which examples the model may learn from."""
