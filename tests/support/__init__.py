"""What tests share: made runs and frames, toys, stand-ins for SLURM and W&B, a SLURM cluster, a browser's hands."""
