"""Tuning: `hydra/sweeper=tune` searches settings over the frozen, resumable jobs of a sweep; Optuna only proposes."""
