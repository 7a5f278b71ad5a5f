"""Training objectives: `base` is the interface to the engine, the other modules implement tasks."""
