"""`fsamlab doctor`: what a machine has, and which parts of fsamlab work on the machine; read view.py first."""
