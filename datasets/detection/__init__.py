"""Data of action detection: AVA, or any dataset in AVA's file formats, as clips with boxes.

Reading of files into records (label_map, annotations, lists), box arithmetic (boxes), transforms of clips with their
boxes (transforms), and the dataset (keyframe_dataset). `build` puts them together from the flags (arguments). Reading
files and box arithmetic do not need PyTorch.
"""
