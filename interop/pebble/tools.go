//go:build tools

// Package tools names the ACME authority that tests run against, so that its version is pinned.
package tools

import _ "github.com/letsencrypt/pebble/v2/cmd/pebble"
