"""Action detection: AVA's files, or those of any data set written like them, as clips with boxes.

Files -> records (label_map, annotations, lists), box arithmetic (boxes), clips and boxes together (transforms), the
data set (keyframe_dataset); build puts them together from the flags (arguments). Neither the files nor the box
arithmetic need PyTorch.
"""
