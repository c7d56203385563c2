nested label { text = "1" }
other label2 { text = "2" }
