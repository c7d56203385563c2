texts = ["tab\tnew\nline", "quote\"back\\slash", "\u00e9\U0001F600", "\x41\101", "bell\a\b\f\v\r", "$plain", "${interp("quoted")}", "a${b}c${d}", "é✓"]
