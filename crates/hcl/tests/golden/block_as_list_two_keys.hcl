subs {
  text = "one"
  int = 2
}
