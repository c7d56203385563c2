text = "bad \q"
