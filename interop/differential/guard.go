// What a caller without an identity meets: limits, and a proxy before the server.

package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
)

type answer struct {
	Code       string   `json:"code"`
	Message    string   `json:"message"`
	RetryAfter []string `json:"retry_after"`
	Details    []string `json:"details"`
}

// guard calls GetBundle on one connection, which begins with a header of bytes, and prints an
// answer a line. Arguments: address, header, number of calls, patience with each in milliseconds.
func guard(arguments []string) {
	address, header := arguments[0], arguments[1]
	calls := must(strconv.Atoi(arguments[2]))
	patience := time.Duration(must(strconv.Atoi(arguments[3]))) * time.Millisecond
	dialer := func(ctx context.Context, target string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", target)
		if err == nil {
			_, err = conn.Write([]byte(header))
		}
		return conn, err
	}
	config := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}
	conn := must(grpc.NewClient("passthrough:///"+address, grpc.WithContextDialer(dialer), grpc.WithTransportCredentials(credentials.NewTLS(config))))
	client := bundlev1.NewBundleClient(conn)
	for range calls {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		var trailer metadata.MD
		_, err := client.GetBundle(ctx, &bundlev1.GetBundleRequest{}, grpc.Trailer(&trailer))
		cancel()
		st := status.Convert(err)
		a := answer{Code: st.Code().String(), Message: st.Message(), RetryAfter: trailer.Get("retry-after")}
		for _, detail := range st.Proto().GetDetails() {
			a.Details = append(a.Details, detail.TypeUrl)
		}
		fmt.Fprintln(os.Stdout, string(must(json.Marshal(a))))
	}
}
