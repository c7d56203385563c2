bool = 1
