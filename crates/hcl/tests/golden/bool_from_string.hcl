bool = "true"
