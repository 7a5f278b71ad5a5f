"""Folders that transformers loads without this repository (`tools.export --format transformers`; docs/hub.md)."""
