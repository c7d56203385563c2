sub { text = "one" int = 1 texts = ["a"] }
sub { text = "two" texts = ["b"] inner { int = 5 } }
sub { inner { text = "deep" } bogus = 1 }
texts = ["x"]
texts = ["y"]
text = "first"
text = "last"
