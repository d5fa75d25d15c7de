"""What pretraining, fine-tuning and distillation share: one trainer, averaged weights, step logs, lessons."""
