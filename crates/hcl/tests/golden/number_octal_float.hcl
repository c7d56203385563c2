float = 089.5
