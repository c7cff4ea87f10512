"""What a process runs in: files, errors, devices, other processes, signals, progress, state."""
