text = <<END
body
END