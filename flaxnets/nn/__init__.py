"""Linen layers. They know nothing of sharding, files or configs."""
