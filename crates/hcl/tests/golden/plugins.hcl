maps {
  DataStore "sql" {
    text = "a"
  }
  "NodeAttestor" "join_token" text { }
}
