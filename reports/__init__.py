"""What a test tells beyond its accuracy: figures, pictures and a page that opens without a network.

statistics (numbers of results.json) -> figures (matplotlib), media (frames as data URIs) -> page (report.html).
"""
