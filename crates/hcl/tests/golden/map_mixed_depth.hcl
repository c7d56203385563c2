map "a" { text = "1" }
map { b { text = "2" } }
