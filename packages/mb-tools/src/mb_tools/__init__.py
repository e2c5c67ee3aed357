"""mb: the command line of MB.

`cli` finds the commands, one file each in `commands`, and turns how they end into an exit status.
What several of them need is beside it: options, connections, payloads, output, text.  `mb serve`
and `mb top` have packages of their own, `serve` and `top`.
"""
