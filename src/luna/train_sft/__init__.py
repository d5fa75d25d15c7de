"""The train_sft stage: supervised fine-tuning on what the judge accepted."""
