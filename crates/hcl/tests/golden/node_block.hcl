node {
  keys_path = "/opt/keys.json"   # where
  size = 10

  nested "x" { a = 1
    bb = "two" }
  list = ["a","b", 3]
  long = [
    "one",
    "two"
  ]
  empty {}
  other {}
  policy = <<EOF2
{
  "a": 1
}
EOF2
}
