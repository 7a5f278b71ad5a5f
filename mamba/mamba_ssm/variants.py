"""Names of the variants of the mixer and of the scan's backends.

Nothing is imported here, so that flags are declared without PyTorch.
"""

BIMAMBA_TYPES = ("v1", "v2")
SCAN_INPUTS = ("conv", "raw")
SCAN_BACKENDS = ("triton", "cuda", "cpu", "portable", "reference")
