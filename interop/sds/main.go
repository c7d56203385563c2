// Sds asks an agent for secrets as Envoy does, by a script on stdin, and prints every answer as a line
// of JSON without what differs from agent to agent: keys, serial numbers, nonces.
//
//	sds <socket>
//
// Each line of the script is a call: {"call":"fetch"|"stream"|"delta"|"flood","steps":[{...}]}. The answers of
// all its steps are printed as one array.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"sync/atomic"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	envoytype "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

const typeURL = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

type step struct {
	Names       []string          `json:"names"`
	Subscribe   []string          `json:"subscribe"`
	Unsubscribe []string          `json:"unsubscribe"`
	Initial     map[string]string `json:"initial"`
	// Nonce and Version are those of the last answer unless they are given.
	Nonce   *string `json:"nonce"`
	Version *string `json:"version"`
	Error   string  `json:"error"`
	TypeURL *string `json:"type_url"`
	Node    *node   `json:"node"`
	// Quiet sends and waits for nothing; Silent waits and wants no answer; Wait sends nothing.
	Quiet  bool `json:"quiet"`
	Silent bool `json:"silent"`
	Wait   bool `json:"wait"`
	Close  bool `json:"close"`
}

type node struct {
	Metadata map[string]any `json:"metadata"`
	Major    *uint32        `json:"major"`
	Minor    uint32         `json:"minor"`
}

type call struct {
	Call  string `json:"call"`
	Steps []step `json:"steps"`
}

type answer map[string]any

func (n *node) proto() *core.Node {
	if n == nil {
		return nil
	}
	out := &core.Node{Id: "sds"}
	if n.Metadata != nil {
		metadata, err := structpb.NewStruct(n.Metadata)
		check(err)
		out.Metadata = metadata
	}
	if n.Major != nil {
		out.UserAgentVersionType = &core.Node_UserAgentBuildVersion{UserAgentBuildVersion: &core.BuildVersion{
			Version: &envoytype.SemanticVersion{MajorNumber: *n.Major, MinorNumber: n.Minor},
		}}
	}
	return out
}

func (s *step) detail() *rpcstatus.Status {
	if s.Error == "" {
		return nil
	}
	return &rpcstatus.Status{Code: 3, Message: s.Error}
}

func (s *step) url() string {
	if s.TypeURL != nil {
		return *s.TypeURL
	}
	return typeURL
}

func or(given *string, last string) string {
	if given != nil {
		return *given
	}
	return last
}

func failed(err error) answer {
	if errors.Is(err, io.EOF) {
		return answer{"end": "OK"}
	}
	told := status.Convert(err)
	return answer{"end": told.Code().String(), "message": told.Message()}
}

func nonce(text string) string {
	if raw, err := hex.DecodeString(text); err != nil || text != strings.ToLower(text) {
		return "malformed: " + text
	} else {
		return fmt.Sprintf("%d bytes", len(raw))
	}
}

func pemCertificates(data []byte) (out []*x509.Certificate, canonical bool) {
	canonical = true
	for rest := data; len(rest) > 0; {
		var block *pem.Block
		before := rest
		block, rest = pem.Decode(rest)
		if block == nil {
			return out, false
		}
		written := pem.EncodeToMemory(block)
		canonical = canonical && string(before[:len(before)-len(rest)]) == string(written)
		certificate, err := x509.ParseCertificate(block.Bytes)
		check(err)
		out = append(out, certificate)
	}
	return out, canonical
}

func roots(data []byte) answer {
	certificates, canonical := pemCertificates(data)
	var serials []string
	for _, certificate := range certificates {
		serials = append(serials, certificate.SerialNumber.String())
	}
	return answer{"roots": serials, "canonical": canonical}
}

// describe tells everything about a secret but the key.
func describe(resource *anypb.Any) answer {
	var it tlsv3.Secret
	check(resource.UnmarshalTo(&it))
	out := answer{"type_url": resource.TypeUrl, "name": it.Name}
	switch kind := it.Type.(type) {
	case *tlsv3.Secret_TlsCertificate:
		chain := kind.TlsCertificate.CertificateChain.GetInlineBytes()
		key := kind.TlsCertificate.PrivateKey.GetInlineBytes()
		_, err := tls.X509KeyPair(chain, key)
		certificates, canonical := pemCertificates(chain)
		var ids, issuers []string
		for _, certificate := range certificates {
			issuers = append(issuers, hex.EncodeToString(certificate.AuthorityKeyId))
			for _, uri := range certificate.URIs {
				ids = append(ids, uri.String())
			}
		}
		block, rest := pem.Decode(key)
		out["certificate"] = answer{
			"ids": ids, "issuers": issuers, "pair": err == nil, "canonical": canonical, "key": block.Type, "rest": len(rest),
		}
	case *tlsv3.Secret_ValidationContext:
		context := kind.ValidationContext
		if context.TrustedCa != nil {
			out["trusted_ca"] = roots(context.TrustedCa.GetInlineBytes())
		}
		if extension := context.CustomValidatorConfig; extension != nil {
			var config tlsv3.SPIFFECertValidatorConfig
			check(extension.TypedConfig.UnmarshalTo(&config))
			var domains []answer
			for _, domain := range config.TrustDomains {
				domains = append(domains, answer{"name": domain.Name, "bundle": roots(domain.TrustBundle.GetInlineBytes())})
			}
			out["validator"] = answer{"name": extension.Name, "type_url": extension.TypedConfig.TypeUrl, "domains": domains}
		}
	}
	return out
}

func described(resources []*anypb.Any) []answer {
	out := []answer{}
	for _, resource := range resources {
		out = append(out, describe(resource))
	}
	return out
}

func fetch(ctx context.Context, client secret.SecretDiscoveryServiceClient, steps []step) (out []answer) {
	for _, s := range steps {
		response, err := client.FetchSecrets(ctx, &discovery.DiscoveryRequest{
			ResourceNames: s.Names, TypeUrl: s.url(), Node: s.Node.proto(), ErrorDetail: s.detail(),
		})
		if err != nil {
			out = append(out, failed(err))
			continue
		}
		resources := described(response.Resources)
		// Federated bundles come in no order.
		sort.SliceStable(resources, func(i, j int) bool {
			return fmt.Sprint(resources[i]["name"]) < fmt.Sprint(resources[j]["name"])
		})
		out = append(out, answer{
			"version": response.VersionInfo, "nonce": response.Nonce, "type_url": response.TypeUrl, "resources": resources,
		})
	}
	return out
}

// pump hands over answers as they come.
func pump[T any](receive func() (T, error)) <-chan func() (T, error) {
	answers := make(chan func() (T, error), 64)
	go func() {
		for {
			got, err := receive()
			answers <- func() (T, error) { return got, err }
			if err != nil {
				return
			}
		}
	}()
	return answers
}

// converse carries out the steps: send gives what a request is made of, and record what came.
func converse[T any](steps []step, send func(*step) error, closeSend func() error, answers <-chan func() (T, error), record func(T) answer) (out []answer) {
	for index := range steps {
		s := &steps[index]
		if !s.Wait && !s.Close {
			if err := send(s); err != nil && !errors.Is(err, io.EOF) {
				return append(out, failed(err))
			}
		}
		if s.Close {
			check(closeSend())
		}
		if s.Quiet {
			continue
		}
		limit := 20 * time.Second
		if s.Silent {
			limit = 700 * time.Millisecond
		}
		select {
		case got := <-answers:
			response, err := got()
			if err != nil {
				return append(out, failed(err))
			}
			out = append(out, record(response))
		case <-time.After(limit):
			out = append(out, answer{"silent": true})
		}
	}
	return out
}

func stream(ctx context.Context, client secret.SecretDiscoveryServiceClient, steps []step) []answer {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	opened, err := client.StreamSecrets(ctx)
	check(err)
	var last discovery.DiscoveryResponse
	send := func(s *step) error {
		return opened.Send(&discovery.DiscoveryRequest{
			ResourceNames: s.Names, TypeUrl: s.url(), Node: s.Node.proto(), ErrorDetail: s.detail(),
			ResponseNonce: or(s.Nonce, last.Nonce), VersionInfo: or(s.Version, last.VersionInfo),
		})
	}
	return converse(steps, send, opened.CloseSend, pump(opened.Recv), func(response *discovery.DiscoveryResponse) answer {
		fresh := response.Nonce != last.Nonce
		last.Nonce, last.VersionInfo = response.Nonce, response.VersionInfo
		return answer{
			"version": response.VersionInfo, "nonce": nonce(response.Nonce), "fresh": fresh,
			"type_url": response.TypeUrl, "resources": described(response.Resources),
		}
	})
}

func delta(ctx context.Context, client secret.SecretDiscoveryServiceClient, steps []step) []answer {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	opened, err := client.DeltaSecrets(ctx)
	check(err)
	var last string
	send := func(s *step) error {
		return opened.Send(&discovery.DeltaDiscoveryRequest{
			ResourceNamesSubscribe: s.Subscribe, ResourceNamesUnsubscribe: s.Unsubscribe,
			InitialResourceVersions: s.Initial, TypeUrl: s.url(), Node: s.Node.proto(),
			ErrorDetail: s.detail(), ResponseNonce: or(s.Nonce, last),
		})
	}
	return converse(steps, send, opened.CloseSend, pump(opened.Recv), func(response *discovery.DeltaDiscoveryResponse) answer {
		last = response.Nonce
		resources := []answer{}
		for _, resource := range response.Resources {
			it := describe(resource.Resource)
			it["version"] = resource.Version
			resources = append(resources, it)
		}
		return answer{
			"nonce": nonce(response.Nonce), "type_url": response.TypeUrl, "resources": resources,
			"removed": response.RemovedResources,
		}
	})
}

// flood subscribes again and again, which is answered each time, and reads nothing.
func flood(ctx context.Context, client secret.SecretDiscoveryServiceClient, _ []step) []answer {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	opened, err := client.DeltaSecrets(ctx)
	check(err)
	var sent atomic.Int64
	go func() {
		request := &discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"default", "ROOTCA"}, TypeUrl: typeURL}
		for opened.Send(request) == nil {
			sent.Add(1)
		}
	}()
	// Until it is stuck: the agent reads no more from who does not read.
	for last := int64(-1); sent.Load() != last; time.Sleep(time.Second) {
		last = sent.Load()
	}
	return []answer{{"sent": sent.Load()}}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	connection, err := grpc.NewClient("unix://"+os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(err)
	client := secret.NewSecretDiscoveryServiceClient(connection)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Second)
	defer cancel()
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var it call
		check(json.Unmarshal(lines.Bytes(), &it))
		kinds := map[string]func(context.Context, secret.SecretDiscoveryServiceClient, []step) []answer{
			"fetch": fetch, "stream": stream, "delta": delta, "flood": flood,
		}
		check(json.NewEncoder(os.Stdout).Encode(kinds[it.Call](ctx, client, it.Steps)))
	}
	check(lines.Err())
}
