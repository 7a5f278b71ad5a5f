"""Selective state space operators and the bidirectional Mamba mixer of VideoMambaPro.

Imported as `mamba.mamba_ssm` from the root of the repository, so it never shadows an installed `mamba-ssm`.
"""
