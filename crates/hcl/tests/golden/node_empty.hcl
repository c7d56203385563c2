node = {}
