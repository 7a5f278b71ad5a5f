"""Helpers for all packages, which depend on none of them."""
