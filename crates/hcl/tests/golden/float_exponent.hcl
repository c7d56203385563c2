float = 0.25E+2
