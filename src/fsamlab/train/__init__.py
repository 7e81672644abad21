"""The training loop: trainer, closures, schedule, meters, signals."""
