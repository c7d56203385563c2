text = "a"
sub {
  text = <<E
x
E
}
