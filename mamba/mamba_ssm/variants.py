"""Names of the variants of the mixer. Nothing is imported here, so that flags are declared without PyTorch."""

BIMAMBA_TYPES = ("v1", "v2")
SCAN_INPUTS = ("conv", "raw")
