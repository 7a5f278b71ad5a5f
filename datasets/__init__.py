"""Turn videos, frame folders and images into clips.

The pipeline is: list files -> records (annotations) -> frame numbers (sampling) -> frames (readers) -> clips
(randaugment, transforms) -> datasets (clip_dataset and its three subclasses) -> batches (collate, loader, worker).
build assembles it from the flags (arguments) and the presets.
"""
