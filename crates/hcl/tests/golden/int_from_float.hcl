int = 1.5
