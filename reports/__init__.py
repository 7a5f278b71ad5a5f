"""The report of a test: figures (matplotlib), sample frames (media) and a self-contained page (report.html).

All numbers come from results.json (engines/results.py).
"""
