text = true
