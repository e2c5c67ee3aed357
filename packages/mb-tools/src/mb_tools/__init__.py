"""mb: the command line of MB.

`cli` finds the commands, one file each in `commands`, and maps their outcome to an exit status.
The other modules here are shared by commands: options, connections, payloads, output, text. `mb
serve` and `mb top` are packages: `serve` and `top`.
"""
