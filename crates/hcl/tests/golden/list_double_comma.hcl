texts = ["a",, "b",]
