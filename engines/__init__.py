"""Training, evaluation, checkpoints and logs: one engine for images and videos."""
