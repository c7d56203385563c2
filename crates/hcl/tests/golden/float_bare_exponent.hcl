float = 1e3
