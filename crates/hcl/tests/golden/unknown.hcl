bogus = 1
text = "x"
nested "label" { text = "1" }
"quoted" = 2
sub { nope = 1 inner { neither = 2 } }
may_sub { alsonot = [] }
subs = [{ x = 1 }, { text = "a" y = 2 }]
map "m" { z = 1 }
bogus = 2
