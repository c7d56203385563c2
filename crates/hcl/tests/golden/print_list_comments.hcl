node {
  l = [
    # lead a
    "a", # line a
    "bbbb", # line b
    "c",

    # lead d
    "d"
  ]
  h = [<<A
x
A
, <<B
y
B
]
  one = [<<A
x
A
]
  objs = [{ a = 1, b = 2 }, { c = "d" }]
  multi = "${
 x
}"
}
