text = <<A B
body
A B
