"""Distillation: a student learns the blended predictions of two frozen teachers. Weights are never averaged."""
