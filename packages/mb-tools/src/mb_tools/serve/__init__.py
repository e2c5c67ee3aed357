"""`mb serve`: `options` reads and checks the options, `addresses` says where the broker listens and
whether others can connect, `broker` runs it, `log` writes its log, `check` describes it."""
