map = { "x" = { text = "1" }, y = { text = "2" } }
words = { a = "b", c = "d" }
