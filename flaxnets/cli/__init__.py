"""The commands of `flaxnets`, one file per command. Only `main` imports them."""
