// Drives the server's admin API through the public API module, as an operator's
// own tool would. Prints one JSON line per step; exits with 1 at the first
// answer that is not what the API promises.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"time"

	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	svidv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

func say(step string, value any) {
	line, _ := json.Marshal(map[string]any{"step": step, "value": value})
	fmt.Println(string(line))
}

func must(step string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", step, err)
		os.Exit(1)
	}
}

func expect(step string, ok bool, detail any) {
	if !ok {
		must(step, fmt.Errorf("unexpected answer: %v", detail))
	}
}

func id(path string) *types.SPIFFEID {
	return &types.SPIFFEID{TrustDomain: os.Args[2], Path: path}
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := grpc.NewClient("unix://"+os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	must("dial", err)
	defer conn.Close()
	entries(ctx, entryv1.NewEntryClient(conn))
	tokens(ctx, agentv1.NewAgentClient(conn))
	mint(ctx, svidv1.NewSVIDClient(conn), bundlev1.NewBundleClient(conn))
}

func entries(ctx context.Context, client entryv1.EntryClient) {
	entry := &types.Entry{
		SpiffeId:    id("/sdk/workload"),
		ParentId:    id("/sdk/parent"),
		Selectors:   []*types.Selector{{Type: "unix", Value: "uid:4242"}},
		X509SvidTtl: 600,
		DnsNames:    []string{"sdk.example.org"},
		Hint:        "sdk",
	}
	created, err := client.BatchCreateEntry(ctx, &entryv1.BatchCreateEntryRequest{Entries: []*types.Entry{entry}})
	must("create", err)
	result := created.Results[0]
	expect("create", result.Status.Code == int32(codes.OK) && result.Status.Message == "OK", result)
	expect("create", result.Entry.Id != "" && result.Entry.CreatedAt > 0, result)
	say("create", result.Entry.Id)

	again, err := client.BatchCreateEntry(ctx, &entryv1.BatchCreateEntryRequest{Entries: []*types.Entry{entry}})
	must("create again", err)
	result2 := again.Results[0]
	expect("create again", result2.Status.Code == int32(codes.AlreadyExists), result2)
	expect("create again", result2.Entry.GetId() == result.Entry.Id, result2)
	say("create again", result2.Status.Message)

	masked, err := client.GetEntry(ctx, &entryv1.GetEntryRequest{
		Id: result.Entry.Id, OutputMask: &types.EntryMask{Hint: true}})
	must("get", err)
	expect("get", masked.Hint == "sdk" && masked.SpiffeId == nil && masked.Id == result.Entry.Id, masked)
	say("get", masked.Hint)

	updated, err := client.BatchUpdateEntry(ctx, &entryv1.BatchUpdateEntryRequest{
		Entries:   []*types.Entry{{Id: result.Entry.Id, Hint: "changed", X509SvidTtl: 1}},
		InputMask: &types.EntryMask{Hint: true},
	})
	must("update", err)
	changed := updated.Results[0].Entry
	expect("update", changed.Hint == "changed" && changed.X509SvidTtl == 600, changed)
	expect("update", changed.RevisionNumber == 1, changed)
	say("update", changed.RevisionNumber)

	var found int
	token := ""
	for {
		page, err := client.ListEntries(ctx, &entryv1.ListEntriesRequest{
			PageSize: 1, PageToken: token,
			Filter: &entryv1.ListEntriesRequest_Filter{
				BySpiffeId: id("/sdk/workload"),
				BySelectors: &types.SelectorMatch{
					Match: types.SelectorMatch_MATCH_SUBSET,
					Selectors: []*types.Selector{
						{Type: "unix", Value: "uid:4242"}, {Type: "unix", Value: "gid:1"}},
				},
			},
		})
		must("list", err)
		found += len(page.Entries)
		if token = page.NextPageToken; token == "" {
			break
		}
	}
	expect("list", found == 1, found)
	say("list", found)

	_, err = client.ListEntries(ctx, &entryv1.ListEntriesRequest{PageSize: 1, PageToken: "nonsense"})
	expect("bad page token", err != nil, err)

	deleted, err := client.BatchDeleteEntry(ctx, &entryv1.BatchDeleteEntryRequest{
		Ids: []string{result.Entry.Id, result.Entry.Id}})
	must("delete", err)
	expect("delete", deleted.Results[0].Status.Code == int32(codes.OK), deleted)
	expect("delete", deleted.Results[1].Status.Code == int32(codes.NotFound), deleted)
	say("delete", deleted.Results[1].Status.Message)
	_, err = client.GetEntry(ctx, &entryv1.GetEntryRequest{Id: result.Entry.Id})
	expect("get deleted", status.Code(err) == codes.NotFound, err)
}

func tokens(ctx context.Context, client agentv1.AgentClient) {
	token, err := client.CreateJoinToken(ctx, &agentv1.CreateJoinTokenRequest{Ttl: 60})
	must("token", err)
	expect("token", len(token.Value) == 36 && token.ExpiresAt > time.Now().Unix(), token.ExpiresAt)
	_, err = client.CreateJoinToken(ctx, &agentv1.CreateJoinTokenRequest{})
	expect("token without ttl", status.Code(err) == codes.InvalidArgument, err)
	say("token", "created")
}

func mint(ctx context.Context, svids svidv1.SVIDClient, bundles bundlev1.BundleClient) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must("key", err)
	uri := &url.URL{Scheme: "spiffe", Host: os.Args[2], Path: "/sdk/minted"}
	request := &x509.CertificateRequest{URIs: []*url.URL{uri}, DNSNames: []string{"minted.example.org"}}
	csr, err := x509.CreateCertificateRequest(rand.Reader, request, key)
	must("csr", err)
	minted, err := svids.MintX509SVID(ctx, &svidv1.MintX509SVIDRequest{Csr: csr, Ttl: 60})
	must("mint", err)
	leaf, err := x509.ParseCertificate(minted.Svid.CertChain[0])
	must("parse", err)
	bundle, err := bundles.GetBundle(ctx, &bundlev1.GetBundleRequest{})
	must("bundle", err)
	roots := x509.NewCertPool()
	for _, authority := range bundle.X509Authorities {
		root, err := x509.ParseCertificate(authority.Asn1)
		must("root", err)
		roots.AddCert(root)
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	must("verify", err)
	expect("names", leaf.URIs[0].String() == uri.String() && leaf.DNSNames[0] == "minted.example.org", leaf.URIs)
	say("mint", leaf.URIs[0].String())

	csr[len(csr)-1] ^= 1
	_, err = svids.MintX509SVID(ctx, &svidv1.MintX509SVIDRequest{Csr: csr, Ttl: 60})
	expect("forged csr", status.Code(err) == codes.InvalidArgument, err)
	say("forged csr", status.Convert(err).Message())

	token, err := svids.MintJWTSVID(ctx, &svidv1.MintJWTSVIDRequest{Id: id("/sdk/minted"), Audience: []string{"a"}, Ttl: 60})
	must("mint jwt", err)
	expect("mint jwt", token.Svid.Token != "" && token.Svid.ExpiresAt > time.Now().Unix(), token.Svid.ExpiresAt)
	say("mint jwt", "ok")
}
