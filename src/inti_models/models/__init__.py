"""Tensors only: the interpolation and the transformers around it, streaming, temporal methods, cost."""
