module steeple/interop/golden/hcl

go 1.24

require github.com/hashicorp/hcl v1.0.1-vault-7
