// Asks a server to attest, as nobody should: many times, slowly, without end, at length.
//
// flood ADDRESS MODE COUNT [TYPE PAYLOAD], a payload of @N being N bytes; prints {"<code>: <message>": how often, …} in JSON.
//
//	attempts  COUNT attestations, 256 at a time over 8 connections
//	silent    COUNT streams that are opened and say nothing, until standard input ends
//	deaf      as silent, but with evidence, and the answers are never read
//	answers   one attestation, whose challenges are answered by COUNT bytes each
//	endless   one attestation, whose challenges are answered by more evidence, COUNT times
package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func csr() []byte {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	must(err)
	return request
}

func dial(address string) agentv1.AgentClient {
	insecure := credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure),
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(64<<20)))
	must(err)
	return agentv1.NewAgentClient(conn)
}

func evidence(kind string, payload, csr []byte) *agentv1.AttestAgentRequest {
	return &agentv1.AttestAgentRequest{Step: &agentv1.AttestAgentRequest_Params_{
		Params: &agentv1.AttestAgentRequest_Params{
			Data:   &types.AttestationData{Type: kind, Payload: payload},
			Params: &agentv1.AgentX509SVIDParams{Csr: csr},
		},
	}}
}

// How an attestation ends, when each challenge is answered so.
func attest(ctx context.Context, client agentv1.AgentClient, first, answer *agentv1.AttestAgentRequest, times int) string {
	stream, err := client.AttestAgent(ctx)
	if err == nil {
		err = stream.Send(first)
	}
	for err == nil || err == io.EOF {
		var response *agentv1.AttestAgentResponse
		if response, err = stream.Recv(); err != nil {
			break
		}
		if response.GetResult() != nil {
			return "OK: "
		}
		for i := 0; i < times && err == nil; i++ {
			err = stream.Send(answer)
		}
	}
	of := status.Convert(err)
	end := fmt.Sprintf("%s: %s", of.Code(), of.Message())
	if stream != nil && len(stream.Trailer().Get("retry-after")) > 0 && strings.Contains(end, "overloaded") {
		end += " (come again)"
	}
	return end
}

func main() {
	address, mode := os.Args[1], os.Args[2]
	count, err := strconv.Atoi(os.Args[3])
	must(err)
	kind, payload := "join_token", []byte("none")
	if len(os.Args) > 5 {
		kind, payload = os.Args[4], []byte(os.Args[5])
		if length, found := strings.CutPrefix(os.Args[5], "@"); found {
			size, err := strconv.Atoi(length)
			must(err)
			payload = bytes.Repeat([]byte("x"), size)
		}
	}
	first := evidence(kind, payload, csr())
	ctx, cancel := context.WithTimeout(context.Background(), 150*time.Second)
	defer cancel()
	ends := map[string]int{}
	var mutex sync.Mutex
	note := func(end string) {
		mutex.Lock()
		defer mutex.Unlock()
		ends[end]++
	}
	var clients []agentv1.AgentClient
	for i := 0; i < 8; i++ {
		clients = append(clients, dial(address))
	}
	switch mode {
	case "attempts":
		var group sync.WaitGroup
		slots := make(chan struct{}, 256)
		// No attempt waits for its turn longer than this.
		for i := 0; i < count; i++ {
			slots <- struct{}{}
			group.Add(1)
			go func() {
				defer group.Done()
				defer func() { <-slots }()
				ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
				defer cancel()
				note(attest(ctx, clients[i%len(clients)], first, nil, 0))
			}()
		}
		group.Wait()
	case "silent", "deaf":
		var group sync.WaitGroup
		for i := 0; i < count; i++ {
			group.Add(1)
			go func() {
				defer group.Done()
				stream, err := clients[i%len(clients)].AttestAgent(ctx)
				if err == nil && mode == "deaf" {
					err = stream.Send(first)
				}
				if err == nil && mode == "silent" {
					_, err = stream.Recv()
				}
				if err != nil && ctx.Err() == nil {
					of := status.Convert(err)
					note(fmt.Sprintf("%s: %s", of.Code(), of.Message()))
				}
			}()
		}
		time.Sleep(500 * time.Millisecond)
		fmt.Println("{}")
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
		group.Wait()
	case "answers":
		answer := &agentv1.AttestAgentRequest{Step: &agentv1.AttestAgentRequest_ChallengeResponse{
			ChallengeResponse: bytes.Repeat([]byte("x"), count),
		}}
		note(attest(ctx, clients[0], first, answer, 1))
	case "endless":
		note(attest(ctx, clients[0], first, first, count))
	default:
		must(fmt.Errorf("unknown mode %q", mode))
	}
	must(json.NewEncoder(os.Stdout).Encode(ends))
}
