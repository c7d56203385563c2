int = "eighty"
