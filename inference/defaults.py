"""Values that both the flags and what they control need. Nothing is imported here, so that flags are declared fast."""

QUICK = {"test_num_segment": 1, "test_num_crop": 1}
"""A single view: one clip from the middle of the video, one crop from the middle of the frame."""

UNSURE = 0.5
"""Below this probability, a prediction is more likely wrong than right by the model's own estimate."""

LEAVE_SHARE = 0.6
"""`SegmentSettings.leave` as a share of `enter`, unless chosen."""

LOGITS = "logits"
POOLS = ("class", "mean", "frames", "tokens", LOGITS)
"""What features are made of; see `inference.pooling.pool_features`."""

LIST_SUFFIXES = (".csv", ".txt")
"""Of files that name videos, one a line."""
