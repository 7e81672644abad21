"""The axes of the sharpness-aware family: the choices on each axis, their parameters, what goes together.

Without torch, so that a schema can take the parameters from here.
"""
