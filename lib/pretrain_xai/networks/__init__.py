"""Networks: their weights, pre-training, fine-tuning and checkpoints."""
