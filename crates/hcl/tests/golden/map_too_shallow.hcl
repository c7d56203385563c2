maps "x" { text = "no second label" }
