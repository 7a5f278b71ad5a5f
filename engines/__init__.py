"""What trains, tests and records a model: one loop for images and videos alike."""
