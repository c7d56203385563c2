sub = "a"
