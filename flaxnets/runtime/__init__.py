"""The machine and the disk: devices, checkpoints, files, where a figure comes from."""
