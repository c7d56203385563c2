text = <<END
body
   END
int = 1
