"""Turn a folder of videos into lists and files for training: list sources, checks, re-encoding."""
