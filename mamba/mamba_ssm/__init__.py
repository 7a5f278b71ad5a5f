"""Selective state space operators and the bidirectional Mamba mixer of VideoMambaPro.

Imported as `mamba.mamba_ssm` from the repository's root, so an installed `mamba-ssm` is never shadowed.
"""
