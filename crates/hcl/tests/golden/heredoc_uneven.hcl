text = <<-END
  two
 one
    END
may_text = <<-END
	tab
	END
