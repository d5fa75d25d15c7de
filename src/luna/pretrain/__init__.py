"""Ages 0 -> 1 -> 2: the base model, by continual pretraining."""
