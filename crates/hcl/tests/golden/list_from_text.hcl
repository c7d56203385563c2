texts = "one"
