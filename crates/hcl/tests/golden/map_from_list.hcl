map = [{ a = { text = "1" } }, { b = { text = "2" } }]
