"""What turns a folder of videos into lists and files for training: sources of lists, checks, re-encoding."""
