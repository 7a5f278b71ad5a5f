"""What a run can learn: `base` is the interface to the engine, every other module a task or a part of one."""
