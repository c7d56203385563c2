# lead of nobody

// lead of text
text = "x" # line of text
/* block
   comment */
int = 1 /* after */ // two groups
bool = /* between */ true
sub { # opens
  # inside
  text = "y" // end
  # trailing inside
}
texts = [ # in list
  "a", // after a
  /* lead b */ "b" # after b
]
node = # moved
  "z"
# at the end
