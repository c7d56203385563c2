TEXT = "a"
Int = 3
SUB { Text = "b" }
