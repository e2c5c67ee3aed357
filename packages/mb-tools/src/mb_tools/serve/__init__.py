"""`mb serve`: `options` reads and checks the options, `broker` runs the broker, `log` writes its
log."""
