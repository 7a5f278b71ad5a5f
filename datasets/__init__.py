"""Videos, frame folders and images as clips.

List files -> records (annotations), frame numbers (sampling), frames (readers), clips (randaugment, transforms), data
sets (clip_dataset and its three kinds), batches (collate, loader, worker); build puts them together from the flags
(arguments) and the presets.
"""
