text = <<END
END
