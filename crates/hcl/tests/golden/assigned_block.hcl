sub = {
  text = "x"
}
may_sub = {}
