node {
  a = 1
  longer = 2 # two
  x = [1,2]

  # lead
  b = 3
  c {}
  d "l" {}

  m {
    n = 1
  }
  o = 2
  p = "x" # p
  q = 12345 // q
}
