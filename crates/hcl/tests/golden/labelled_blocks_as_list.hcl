subs "first" { text = "one" }
subs "second" { text = "two" int = 2 }
