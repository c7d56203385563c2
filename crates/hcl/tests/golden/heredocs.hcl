text = <<END
line one
  line two "quoted" ${x}
END
may_text = <<-DASH
    indented
      more
    DASH
texts = [<<ONE
alone
ONE
, "after"]
