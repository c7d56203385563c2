float = 3
