sub = [{ text = "a" }]
