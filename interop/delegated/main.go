// A delegate, or a broker: calls the agent's delegated identity API or the
// SPIFFE Broker API with the public modules, as told in JSON on its standard
// input, and prints what came of each call as one JSON line.
package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/exp/proto/spiffe/broker"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	delegated "github.com/spiffe/spire-api-sdk/proto/spire/api/agent/delegatedidentity/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	reflection "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

const (
	delegation = "/spire.api.agent.delegatedidentity.v1.DelegatedIdentity/"
	brokerage  = "/spiffe.broker.API/"
)

type method struct {
	path     string
	stream   bool
	request  func() proto.Message
	response func() proto.Message
}

var methods = map[string]method{
	"delegated.x509": {delegation + "SubscribeToX509SVIDs", true,
		func() proto.Message { return &delegated.SubscribeToX509SVIDsRequest{} },
		func() proto.Message { return &delegated.SubscribeToX509SVIDsResponse{} }},
	"delegated.x509_bundles": {delegation + "SubscribeToX509Bundles", true,
		func() proto.Message { return &delegated.SubscribeToX509BundlesRequest{} },
		func() proto.Message { return &delegated.SubscribeToX509BundlesResponse{} }},
	"delegated.jwt": {delegation + "FetchJWTSVIDs", false,
		func() proto.Message { return &delegated.FetchJWTSVIDsRequest{} },
		func() proto.Message { return &delegated.FetchJWTSVIDsResponse{} }},
	"delegated.jwt_bundles": {delegation + "SubscribeToJWTBundles", true,
		func() proto.Message { return &delegated.SubscribeToJWTBundlesRequest{} },
		func() proto.Message { return &delegated.SubscribeToJWTBundlesResponse{} }},
	"broker.x509": {brokerage + "SubscribeToX509SVID", true,
		func() proto.Message { return &broker.SubscribeToX509SVIDRequest{} },
		func() proto.Message { return &broker.SubscribeToX509SVIDResponse{} }},
	"broker.x509_bundles": {brokerage + "SubscribeToX509Bundles", true,
		func() proto.Message { return &broker.SubscribeToX509BundlesRequest{} },
		func() proto.Message { return &broker.SubscribeToX509BundlesResponse{} }},
	"broker.jwt": {brokerage + "FetchJWTSVID", false,
		func() proto.Message { return &broker.FetchJWTSVIDRequest{} },
		func() proto.Message { return &broker.FetchJWTSVIDResponse{} }},
	"broker.jwt_bundles": {brokerage + "SubscribeToJWTBundles", true,
		func() proto.Message { return &broker.SubscribeToJWTBundlesRequest{} },
		func() proto.Message { return &broker.SubscribeToJWTBundlesResponse{} }},
	"unknown": {delegation + "Nothing", false,
		func() proto.Message { return &delegated.FetchJWTSVIDsRequest{} },
		func() proto.Message { return &delegated.FetchJWTSVIDsResponse{} }},
}

// call is a line of the input.
type call struct {
	Method  string          `json:"method"`
	Request json.RawMessage `json:"request"`
	// How many messages to wait for, of a stream.
	Messages int `json:"messages"`
	// Seconds until the call is given up.
	Seconds int `json:"seconds"`
	// Generated selectors, for requests too long to write down.
	Selectors int `json:"selectors"`
	// Without the header that brokers must send.
	NoHeader bool `json:"no_header"`
	// A reference of this many bytes.
	ReferenceBytes int `json:"reference_bytes"`
}

type answer struct {
	Messages []any  `json:"messages,omitempty"`
	Code     string `json:"code,omitempty"`
	Message  string `json:"message,omitempty"`
}

func say(value any) {
	line, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// dial takes "delegate SOCKET", "broker TARGET" (by SPIFFE_ENDPOINT_SOCKET), or
// "files TARGET CERTIFICATE KEY"; without a certificate the client is nobody.
func dial(arguments []string) *grpc.ClientConn {
	kind, target := arguments[0], arguments[1]
	var transport credentials.TransportCredentials
	switch kind {
	case "delegate":
		target, transport = "unix://"+target, insecure.NewCredentials()
	case "broker":
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		source, err := workloadapi.NewX509Source(ctx)
		if err != nil {
			fail(err)
		}
		transport = credentials.NewTLS(tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeAny()))
	case "files":
		config := &tls.Config{InsecureSkipVerify: true}
		if len(arguments) > 2 {
			pair, err := tls.LoadX509KeyPair(arguments[2], arguments[3])
			if err != nil {
				fail(err)
			}
			config.Certificates = []tls.Certificate{pair}
		}
		transport = credentials.NewTLS(config)
	}
	limit := grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(256 << 20))
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(transport), limit,
		grpc.WithInitialWindowSize(1<<20), grpc.WithInitialConnWindowSize(8<<20))
	if err != nil {
		fail(err)
	}
	return conn
}

func (c call) message(m method) proto.Message {
	request := m.request()
	if len(c.Request) > 0 {
		if err := protojson.Unmarshal(c.Request, request); err != nil {
			fail(err)
		}
	}
	if wide, ok := request.(*delegated.SubscribeToX509SVIDsRequest); ok {
		for i := range c.Selectors {
			wide.Selectors = append(wide.Selectors, &types.Selector{Type: "many", Value: strconv.Itoa(i)})
		}
	}
	if c.ReferenceBytes > 0 {
		request.(*broker.SubscribeToX509SVIDRequest).Reference.Reference.Value = make([]byte, c.ReferenceBytes)
	}
	return request
}

func (c call) do(conn *grpc.ClientConn) (result answer) {
	if c.Method == "reflection" {
		return c.reflect(conn)
	}
	m, ok := methods[c.Method]
	if !ok {
		fail(fmt.Errorf("unknown method %q", c.Method))
	}
	ctx, cancel := c.context()
	defer cancel()
	var err error
	defer func() {
		if err != nil && !errors.Is(err, io.EOF) {
			result.Code, result.Message = status.Code(err).String(), status.Convert(err).Message()
		}
	}()
	if !m.stream {
		response := m.response()
		if err = conn.Invoke(ctx, m.path, c.message(m), response); err == nil {
			result.Messages = []any{summary(response)}
		}
		return result
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, m.path)
	if err != nil {
		return result
	}
	if err = stream.SendMsg(c.message(m)); err != nil && !errors.Is(err, io.EOF) {
		return result
	}
	if err = stream.CloseSend(); err != nil {
		return result
	}
	for len(result.Messages) < max(c.Messages, 1) {
		response := m.response()
		if err = stream.RecvMsg(response); err != nil {
			return result
		}
		result.Messages = append(result.Messages, summary(response))
	}
	return result
}

func (c call) context() (context.Context, context.CancelFunc) {
	seconds := c.Seconds
	if seconds == 0 {
		seconds = 20
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(seconds)*time.Second)
	if !c.NoHeader {
		ctx = metadata.AppendToOutgoingContext(ctx, "broker.spiffe.io", "true")
	}
	return ctx, cancel
}

func (c call) reflect(conn *grpc.ClientConn) answer {
	ctx, cancel := c.context()
	defer cancel()
	stream, err := reflection.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err == nil {
		err = stream.Send(&reflection.ServerReflectionRequest{MessageRequest: &reflection.ServerReflectionRequest_ListServices{}})
	}
	var response *reflection.ServerReflectionResponse
	if err == nil || errors.Is(err, io.EOF) {
		response, err = stream.Recv()
	}
	if err != nil {
		return answer{Code: status.Code(err).String(), Message: status.Convert(err).Message()}
	}
	names := []string{}
	for _, service := range response.GetListServicesResponse().GetService() {
		names = append(names, service.Name)
	}
	sort.Strings(names)
	return answer{Messages: []any{names}}
}

// An identity without what differs from one issue to the next.
func identity(id, hint string, chain [][]byte, key []byte) map[string]any {
	result := map[string]any{"id": id, "hint": hint}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return map[string]any{"error": err.Error()}
	}
	private, err := x509.ParsePKCS8PrivateKey(key)
	if err != nil {
		return map[string]any{"error": err.Error()}
	}
	result["key_fits"] = fmt.Sprint(publicOf(private)) == fmt.Sprint(leaf.PublicKey)
	result["uri"] = leaf.URIs[0].String()
	return result
}

func digests(bundles map[string][]byte) map[string]string {
	result := map[string]string{}
	for name, bundle := range bundles {
		result[name] = fmt.Sprintf("%x", sha256.Sum256(bundle))[:16]
	}
	return result
}

func claims(token string) map[string]any {
	parts := strings.Split(token, ".")
	raw, _ := base64.RawURLEncoding.DecodeString(parts[1])
	var all map[string]any
	_ = json.Unmarshal(raw, &all)
	return map[string]any{"sub": all["sub"], "aud": all["aud"]}
}

func name(id *types.SPIFFEID) string {
	return "spiffe://" + id.TrustDomain + id.Path
}

func summary(message proto.Message) any {
	svids := []any{}
	switch it := message.(type) {
	case *delegated.SubscribeToX509SVIDsResponse:
		for _, svid := range it.X509Svids {
			summarised := identity(name(svid.X509Svid.Id), svid.X509Svid.Hint, svid.X509Svid.CertChain, svid.X509SvidKey)
			leaf, _ := x509.ParseCertificate(svid.X509Svid.CertChain[0])
			summarised["expires_fits"] = leaf.NotAfter.Unix() == svid.X509Svid.ExpiresAt
			svids = append(svids, summarised)
		}
		return map[string]any{"svids": svids, "federates_with": it.FederatesWith}
	case *delegated.SubscribeToX509BundlesResponse:
		return digests(it.CaCertificates)
	case *delegated.SubscribeToJWTBundlesResponse:
		return digests(it.Bundles)
	case *delegated.FetchJWTSVIDsResponse:
		for _, svid := range it.Svids {
			svids = append(svids, map[string]any{"id": name(svid.Id), "hint": svid.Hint, "claims": claims(svid.Token),
				"times": svid.IssuedAt > 0 && svid.ExpiresAt > svid.IssuedAt})
		}
		return svids
	case *broker.SubscribeToX509SVIDResponse:
		for _, svid := range it.Svids {
			chain, err := x509.ParseCertificates(svid.X509Svid)
			if err != nil {
				return err.Error()
			}
			raw := [][]byte{chain[0].Raw}
			summarised := identity(svid.SpiffeId, svid.Hint, raw, svid.X509SvidKey)
			summarised["bundle"] = digests(map[string][]byte{"": svid.Bundle})[""]
			svids = append(svids, summarised)
		}
		return map[string]any{"svids": svids, "federated": digests(it.FederatedBundles)}
	case *broker.SubscribeToX509BundlesResponse:
		return digests(it.Bundles)
	case *broker.SubscribeToJWTBundlesResponse:
		return digests(it.Bundles)
	case *broker.FetchJWTSVIDResponse:
		for _, svid := range it.Svids {
			svids = append(svids, map[string]any{"id": svid.SpiffeId, "hint": svid.Hint, "claims": claims(svid.Svid)})
		}
		return svids
	}
	return fmt.Sprintf("%T", message)
}

// many opens streams on one connection and says when each had its first
// message, then counts what else comes until the input ends.
func many(conn *grpc.ClientConn, count int) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	started := time.Now()
	var first, all, opened sync.WaitGroup
	var lock sync.Mutex
	updates, broken := 0, []string{}
	opening := make(chan struct{}, 256)
	for i := range count {
		first.Add(1)
		all.Add(1)
		opened.Add(1)
		opening <- struct{}{}
		go func() {
			defer all.Done()
			client := delegated.NewDelegatedIdentityClient(conn)
			selectors := []*types.Selector{{Type: "many", Value: "all"}, {Type: "many", Value: strconv.Itoa(i)}}
			stream, err := client.SubscribeToX509SVIDs(ctx, &delegated.SubscribeToX509SVIDsRequest{Selectors: selectors})
			<-opening
			opened.Done()
			for messages := 0; err == nil; messages++ {
				_, err = stream.Recv()
				if err == nil {
					lock.Lock()
					updates++
					lock.Unlock()
				}
				if messages == 0 {
					first.Done()
				}
			}
			if ctx.Err() == nil {
				lock.Lock()
				broken = append(broken, status.Convert(err).Message())
				lock.Unlock()
			}
		}()
	}
	first.Wait()
	report := func(event string) {
		lock.Lock()
		defer lock.Unlock()
		sample := broken
		if len(sample) > 3 {
			sample = sample[:3]
		}
		say(map[string]any{"event": event, "milliseconds": time.Since(started).Milliseconds(),
			"updates": updates, "broken": len(broken), "first_broken": sample})
	}
	report("open")
	input := bufio.NewScanner(os.Stdin)
	for input.Scan() {
		report("now")
	}
}

func main() {
	arguments := os.Args[1:]
	if arguments[0] == "many" || arguments[0] == "watch" {
		count, err := strconv.Atoi(arguments[2])
		if err != nil {
			fail(err)
		}
		conn := dial([]string{"delegate", arguments[1]})
		if arguments[0] == "many" {
			many(conn, count)
		} else {
			watch(conn, count)
		}
		return
	}
	conn := dial(arguments)
	input := bufio.NewScanner(os.Stdin)
	input.Buffer(nil, 1<<26)
	for input.Scan() {
		var next call
		if err := json.Unmarshal(input.Bytes(), &next); err != nil {
			fail(err)
		}
		say(next.do(conn))
	}
}
