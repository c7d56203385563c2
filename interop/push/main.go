// Watches streams and says what comes, with the time: a line of JSON each.
//
//	push watch SOCKET
//	    FetchX509SVID on an agent's socket.
//	push hints ADDRESS CERT KEY COUNT [deaf]
//	    COUNT streams of hints of a server, as the agent with this SVID, one connection each; with
//	    "deaf" nothing is read from them.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strconv"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
)

var output sync.Mutex

func say(event map[string]any) {
	event["time"] = float64(time.Now().UnixNano()) / 1e9
	output.Lock()
	defer output.Unlock()
	must(json.NewEncoder(os.Stdout).Encode(event))
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func ended(err error) map[string]any {
	return map[string]any{"code": status.Code(err).String(), "message": status.Convert(err).Message()}
}

// The messages of push.proto are so small that their bytes are read as they are.
type raw struct{ bytes []byte }

type rawCodec struct{}

func (rawCodec) Marshal(message any) ([]byte, error) { return message.(*raw).bytes, nil }
func (rawCodec) Unmarshal(data []byte, message any) error {
	message.(*raw).bytes = append([]byte(nil), data...)
	return nil
}
func (rawCodec) Name() string { return "proto" }

func watch(socket string) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(err)
	ctx := metadata.AppendToOutgoingContext(context.Background(), "workload.spiffe.io", "true")
	stream, err := workload.NewSpiffeWorkloadAPIClient(conn).FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	must(err)
	for {
		update, err := stream.Recv()
		if err != nil {
			say(ended(err))
			return
		}
		ids, federated, bundle := []string{}, map[string]int{}, 0
		for _, svid := range update.Svids {
			ids = append(ids, svid.SpiffeId)
			bundle = len(svid.Bundle)
		}
		for domain, authorities := range update.FederatedBundles {
			federated[domain] = len(authorities)
		}
		sort.Strings(ids)
		say(map[string]any{"ids": ids, "bundle": bundle, "federated": federated})
	}
}

func hints(address, certFile, keyFile string, count int, deaf bool) {
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	must(err)
	config := &tls.Config{Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true}
	var open sync.WaitGroup
	for number := range count {
		open.Add(1)
		go func() {
			defer open.Done()
			conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
			must(err)
			defer conn.Close()
			description := &grpc.StreamDesc{ServerStreams: true}
			stream, err := conn.NewStream(context.Background(), description,
				"/steeple.server.push.v1.Push/Watch", grpc.ForceCodec(rawCodec{}))
			if err == nil {
				err = stream.SendMsg(&raw{})
			}
			if err == nil {
				err = stream.CloseSend()
			}
			for err == nil && !deaf {
				var message raw
				if err = stream.RecvMsg(&message); err == nil {
					hint := []int{}
					for rest := message.bytes; len(rest) > 0; {
						field, _, size := protowire.ConsumeField(rest)
						if size < 0 {
							break
						}
						hint = append(hint, int(field))
						rest = rest[size:]
					}
					say(map[string]any{"stream": number, "hint": hint})
				}
			}
			if err == nil {
				select {}
			}
			event := ended(err)
			event["stream"] = number
			say(event)
		}()
	}
	open.Wait()
}

func main() {
	switch os.Args[1] {
	case "watch":
		watch(os.Args[2])
	case "hints":
		count, err := strconv.Atoi(os.Args[5])
		must(err)
		hints(os.Args[2], os.Args[3], os.Args[4], count, len(os.Args) > 6)
	}
}
