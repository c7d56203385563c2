map "Key" { text = "upper" }
map "key" { int = 1 }
