sub = ["a"]
