texts = ["a", 1]
