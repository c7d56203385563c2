texts = ["a" "b"]
