node "https_web" {
  acme {
    domain_name = "d"
    tos_accepted = true
  }
}
