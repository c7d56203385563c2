text = "${
  foo
}"
