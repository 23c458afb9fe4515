"""The commands of `flaxnets`, a file each. Nothing imports them but `main`."""
