"""Runs as frames and statistics; draws nothing."""
