int = ""
