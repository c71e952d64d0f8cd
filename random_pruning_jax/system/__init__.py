"""What lies between a run and its machine: processes, signals, locks, files, settings of a CPU."""
