text = "\400"
