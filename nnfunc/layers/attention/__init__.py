"""Attention: the function, its masks and kernels, and the layer."""
