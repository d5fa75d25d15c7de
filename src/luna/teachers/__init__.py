"""The teachers stage: earlier generations, brought back from their git tags."""
