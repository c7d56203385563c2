maps {
  NodeAttestor { join_token { text = "j" } k8s { int = 1 } }
  KeyManager = { memory = {} }
  "NodeAttestor" "other" inner { text = "x" }
}
