node = -
