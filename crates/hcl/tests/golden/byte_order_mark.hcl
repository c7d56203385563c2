text = "a"
