"""`mb serve`: `options` are read and checked, `broker` runs with them, `log` is what it writes."""
