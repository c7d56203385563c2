texts = [
  "a", # first
  "b",
  # above the last
  "c",
]
ints = []
