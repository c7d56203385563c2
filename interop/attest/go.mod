module steeple.test/interop/attest

go 1.24.0

require (
	github.com/spiffe/spire-api-sdk v1.2.5-0.20260428072036-00f73a61093a
	golang.org/x/crypto v0.47.0
	google.golang.org/grpc v1.74.2
)

require (
	golang.org/x/net v0.48.0 // indirect
	golang.org/x/sys v0.40.0 // indirect
	golang.org/x/text v0.33.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20250811230008-5f3141c8851a // indirect
	google.golang.org/protobuf v1.36.7 // indirect
)
