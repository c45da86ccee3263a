"""Where a training job's time and machine go."""
