"""The commands of `mb`: each is in the module of its name, whose docstring is its help."""
