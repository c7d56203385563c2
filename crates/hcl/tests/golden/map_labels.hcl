map "a" { text = "1" }
map "b" { int = 2 }
map "a" { int = 3 }
maps "x" "y" { text = "xy" }
maps "x" "z" { text = "xz" }
maps x { w { text = "xw" } }
words { one = "1" "two" = 2 }
words { three = "3" one = "uno" }
