subs { text = "only" }
