node = "sqlite3"
