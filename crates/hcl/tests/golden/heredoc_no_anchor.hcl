text = <<
body
