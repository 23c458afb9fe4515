"""Sources of examples, and batches of them."""
