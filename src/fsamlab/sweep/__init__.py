"""Sweeps: their record, their results."""
