"""What `train` and `many` are made of: a run's parts, its compiled step, and what it writes."""
