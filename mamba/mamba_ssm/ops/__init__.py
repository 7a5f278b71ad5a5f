"""Operators: the selective scan, its backends, and the causal convolution before it."""
