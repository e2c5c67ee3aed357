"""The commands of `mb`. Each is in the module of the same name, whose docstring is its help."""
