text = <<-END
body
END
node = <<-END
    END
