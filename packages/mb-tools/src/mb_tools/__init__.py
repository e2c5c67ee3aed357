"""mb: the command line of MB."""
