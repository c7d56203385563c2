subs { text = "one" }
subs { text = "two" }
subs = [{ text = "three" }]
