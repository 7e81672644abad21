"""The training loop; trainer.py is the loop itself, and the file to read first."""
