subs = [
  { text = "a" int = 1 },
  { text = "b", int = 2, },
  {
    text = "c"
  },
]
