// Bundles and join tokens.

package main

import (
	"crypto/x509"
	"fmt"
	"strings"

	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
)

func bundles(conn *grpc.ClientConn) {
	b := bundlev1.NewBundleClient(conn)
	masks := map[string]*types.BundleMask{"nil": nil, "empty": {}, "x509": {X509Authorities: true}, "jwt": {JwtAuthorities: true}, "seq": {SequenceNumber: true, RefreshHint: true}, "wit": {WitAuthorities: true}}
	for _, k := range sortedKeys(masks) {
		r, err := b.GetBundle(ctx, &bundlev1.GetBundleRequest{OutputMask: masks[k]})
		step("bundle "+k, r, err)
	}
	ca := selfSigned("spiffe://f1.org").Certificate[0]
	ca2 := selfSigned("spiffe://f2.org").Certificate[0]
	pk := must(x509.MarshalPKIXPublicKey(keyP256.Public()))
	pkr := must(x509.MarshalPKIXPublicKey(keyRSA2048.Public()))
	bs := map[string]*types.Bundle{
		"nil": nil, "empty": {}, "own": {TrustDomain: TD}, "own id": {TrustDomain: "spiffe://" + TD}, "badtd": {TrustDomain: "Bad TD"},
		"x509":       {TrustDomain: "f1.org", X509Authorities: []*types.X509Certificate{{Asn1: ca}}, RefreshHint: 60, SequenceNumber: 42},
		"new":        {TrustDomain: "n1.org", X509Authorities: []*types.X509Certificate{{Asn1: ca}}, JwtAuthorities: []*types.JWTKey{{PublicKey: pk, KeyId: "k1", ExpiresAt: 1999999999}}, RefreshHint: 60, SequenceNumber: 42},
		"new2":       {TrustDomain: "n2.org", X509Authorities: []*types.X509Certificate{{Asn1: ca}, {Asn1: ca}, {Asn1: ca2}}, JwtAuthorities: []*types.JWTKey{{PublicKey: pkr, KeyId: "k1"}, {PublicKey: pk, KeyId: "k2"}}},
		"tainted":    {TrustDomain: "n3.org", X509Authorities: []*types.X509Certificate{{Asn1: ca, Tainted: true}}, JwtAuthorities: []*types.JWTKey{{PublicKey: pk, KeyId: "k1", Tainted: true}}},
		"two in one": {TrustDomain: "n4.org", X509Authorities: []*types.X509Certificate{{Asn1: append(append([]byte{}, ca...), ca2...)}}},
		"bad cert":   {TrustDomain: "n5.org", X509Authorities: []*types.X509Certificate{{Asn1: []byte("bad")}}},
		"empty cert": {TrustDomain: "n5.org", X509Authorities: []*types.X509Certificate{{}}},
		"bad key":    {TrustDomain: "n5.org", JwtAuthorities: []*types.JWTKey{{PublicKey: []byte("bad"), KeyId: "x"}}},
		"no key":     {TrustDomain: "n5.org", JwtAuthorities: []*types.JWTKey{{KeyId: "x"}}},
		"no kid":     {TrustDomain: "n5.org", JwtAuthorities: []*types.JWTKey{{PublicKey: pk}}},
		"dup kid":    {TrustDomain: "n6.org", JwtAuthorities: []*types.JWTKey{{PublicKey: pk, KeyId: "a"}, {PublicKey: pkr, KeyId: "a"}}},
		"neg exp":    {TrustDomain: "n7.org", JwtAuthorities: []*types.JWTKey{{PublicKey: pk, KeyId: "a", ExpiresAt: -4}}},
		"neg hint":   {TrustDomain: "n8.org", RefreshHint: -5},
		"wit":        {TrustDomain: "n9.org", WitAuthorities: []*types.WITKey{{PublicKey: pk, KeyId: "w"}}},
		"wit bad":    {TrustDomain: "n10.org", WitAuthorities: []*types.WITKey{{PublicKey: []byte("bad"), KeyId: "w"}}},
		"id form":    {TrustDomain: "spiffe://n11.org/path"},
		"empty new":  {TrustDomain: "n12.org"},
	}
	for _, k := range sortedKeys(bs) {
		r, err := b.BatchCreateFederatedBundle(ctx, &bundlev1.BatchCreateFederatedBundleRequest{Bundle: []*types.Bundle{bs[k]}})
		step("fedcreate "+k, r, err)
	}
	r, err := b.BatchCreateFederatedBundle(ctx, &bundlev1.BatchCreateFederatedBundleRequest{Bundle: []*types.Bundle{{TrustDomain: "m1.org"}, {TrustDomain: ""}, {TrustDomain: "m2.org", X509Authorities: []*types.X509Certificate{{Asn1: ca}}}}, OutputMask: &types.BundleMask{}})
	step("fedcreate mixed masked", r, err)
	r, err = b.BatchCreateFederatedBundle(ctx, &bundlev1.BatchCreateFederatedBundleRequest{})
	step("fedcreate none", r, err)
	for _, k := range sortedKeys(bs) {
		r, err := b.BatchUpdateFederatedBundle(ctx, &bundlev1.BatchUpdateFederatedBundleRequest{Bundle: []*types.Bundle{bs[k]}})
		step("fedupdate "+k, r, err)
	}
	for _, k := range []string{"empty", "x509", "jwt", "seq"} {
		r, err := b.BatchUpdateFederatedBundle(ctx, &bundlev1.BatchUpdateFederatedBundleRequest{Bundle: []*types.Bundle{{TrustDomain: "n1.org", RefreshHint: 5, SequenceNumber: 3, X509Authorities: []*types.X509Certificate{{Asn1: ca2}}}}, InputMask: masks[k], OutputMask: masks["nil"]})
		step("fedupdate mask "+k, r, err)
	}
	u, err := b.BatchUpdateFederatedBundle(ctx, &bundlev1.BatchUpdateFederatedBundleRequest{Bundle: []*types.Bundle{{TrustDomain: "zz.org"}, {TrustDomain: "n1.org"}}})
	step("fedupdate unknown", u, err)
	for _, k := range sortedKeys(bs) {
		r, err := b.BatchSetFederatedBundle(ctx, &bundlev1.BatchSetFederatedBundleRequest{Bundle: []*types.Bundle{bs[k]}})
		step("fedset "+k, r, err)
	}
	n, err := b.CountBundles(ctx, &bundlev1.CountBundlesRequest{})
	step("count bundles", n, err)
	for _, p := range []int32{0, -1, 3, 100} {
		tok := ""
		for i := 0; i < 10; i++ {
			r, err := b.ListFederatedBundles(ctx, &bundlev1.ListFederatedBundlesRequest{OutputMask: &types.BundleMask{}, PageSize: p, PageToken: tok})
			if r != nil {
				if r.NextPageToken != "" {
					tok = r.NextPageToken
					r.NextPageToken = "<tok>"
				} else {
					tok = ""
				}
			}
			step(fmt.Sprintf("fedlist size %d #%d", p, i), r, err)
			if tok == "" {
				break
			}
		}
	}
	for _, t := range []string{"x", "-1", "999999"} {
		r, err := b.ListFederatedBundles(ctx, &bundlev1.ListFederatedBundlesRequest{PageSize: 2, PageToken: t})
		step("fedlist token "+t, r, err)
	}
	l, err := b.ListFederatedBundles(ctx, &bundlev1.ListFederatedBundlesRequest{})
	step("fedlist", l, err)
	for _, td := range []string{"", "f1.org", "spiffe://f1.org", "spiffe://f1.org/x", "zz.org", TD, "Bad TD", "spiffe://" + TD} {
		r, err := b.GetFederatedBundle(ctx, &bundlev1.GetFederatedBundleRequest{TrustDomain: td})
		step("fedget "+td, r, err)
	}
	g, err := b.GetFederatedBundle(ctx, &bundlev1.GetFederatedBundleRequest{TrustDomain: "n1.org", OutputMask: &types.BundleMask{}})
	step("fedget mask", g, err)
	for _, m := range []int32{0, 1, 2, 7} {
		r, err := b.BatchDeleteFederatedBundle(ctx, &bundlev1.BatchDeleteFederatedBundleRequest{TrustDomains: []string{"zz.org", "", "Bad TD", TD, "m1.org"}, Mode: bundlev1.BatchDeleteFederatedBundleRequest_Mode(m)})
		step(fmt.Sprintf("feddelete %d", m), r, err)
	}
	for _, x := range []struct {
		td string
		m  int32
	}{{"f3.org", 0}, {"f2.org", 2}, {"f3.org", 1}, {"spiffe://n4.org", 0}, {"f1.org", 9}} {
		r, err := b.BatchDeleteFederatedBundle(ctx, &bundlev1.BatchDeleteFederatedBundleRequest{TrustDomains: []string{x.td}, Mode: bundlev1.BatchDeleteFederatedBundleRequest_Mode(x.m)})
		step(fmt.Sprintf("feddelete %s %d", x.td, x.m), r, err)
	}
	e, err := entryv1.NewEntryClient(conn).ListEntries(ctx, &entryv1.ListEntriesRequest{Filter: &entryv1.ListEntriesRequest_Filter{ByParentId: id("/p")}, OutputMask: &types.EntryMask{FederatesWith: true, RevisionNumber: true}})
	step("entries after feddelete", e, err)
	app := map[string]*bundlev1.AppendBundleRequest{
		"empty":        {},
		"x509":         {X509Authorities: []*types.X509Certificate{{Asn1: ca}}, OutputMask: &types.BundleMask{SequenceNumber: true}},
		"x509 again":   {X509Authorities: []*types.X509Certificate{{Asn1: ca}}, OutputMask: &types.BundleMask{SequenceNumber: true}},
		"bad":          {X509Authorities: []*types.X509Certificate{{Asn1: []byte("x")}}},
		"jwt":          {JwtAuthorities: []*types.JWTKey{{PublicKey: pk, KeyId: "app", ExpiresAt: 1999999999}}, OutputMask: &types.BundleMask{SequenceNumber: true}},
		"jwt same kid": {JwtAuthorities: []*types.JWTKey{{PublicKey: pkr, KeyId: "app"}}, OutputMask: &types.BundleMask{SequenceNumber: true, JwtAuthorities: true}},
		"jwt bad":      {JwtAuthorities: []*types.JWTKey{{PublicKey: []byte("x"), KeyId: "app"}}},
		"jwt nokid":    {JwtAuthorities: []*types.JWTKey{{PublicKey: pk}}},
		"jwt tainted":  {JwtAuthorities: []*types.JWTKey{{PublicKey: pk, KeyId: "taint", Tainted: true}}, OutputMask: &types.BundleMask{JwtAuthorities: true}},
		"x509 tainted": {X509Authorities: []*types.X509Certificate{{Asn1: ca2, Tainted: true}}},
		"wit":          {WitAuthorities: []*types.WITKey{{PublicKey: pk, KeyId: "wit"}}},
		"wit bad":      {WitAuthorities: []*types.WITKey{{PublicKey: []byte("x"), KeyId: "wit"}}},
	}
	for _, k := range sortedKeys(app) {
		r, err := b.AppendBundle(ctx, app[k])
		step("append "+k, r, err)
	}
	pr, err := b.PublishJWTAuthority(ctx, &bundlev1.PublishJWTAuthorityRequest{JwtAuthority: &types.JWTKey{PublicKey: pk, KeyId: "pub"}})
	step("publish local", pr, err)
	wr, err := b.PublishWITAuthority(ctx, &bundlev1.PublishWITAuthorityRequest{})
	step("publish wit local", wr, err)
}

func tokens(conn *grpc.ClientConn) {
	a := agentv1.NewAgentClient(conn)
	tk := func(n string, ttl int32, t string, i *types.SPIFFEID) {
		r, err := a.CreateJoinToken(ctx, &agentv1.CreateJoinTokenRequest{Ttl: ttl, Token: t, AgentId: i})
		step("token "+n, r, err)
	}
	tk("zero ttl", 0, "", nil)
	tk("neg ttl", -1, "", nil)
	tk("plain", 60, "", nil)
	tk("given", 60, "tok1", nil)
	tk("given again", 60, "tok1", nil)
	tk("weird", 60, "a/b", nil)
	tk("weird dots", 60, "..", nil)
	tk("weird space", 60, "a b", nil)
	tk("weird empty seg", 60, "a//b", nil)
	tk("long", 60, strings.Repeat("t", 3000), nil)
	tk("300", 60, strings.Repeat("t", 300), nil)
	tk("max ttl", 2147483647, "tokmax", nil)
	tk("agent id", 60, "tokaid", id("/node/a"))
	tk("agent id again other token", 60, "tokaid2", id("/node/a"))
	tk("agent id reserved", 60, "tokr", id("/spire/agent/foo"))
	tk("agent id foreign", 60, "tokf", fid("other.org", "/x"))
	tk("agent id empty", 60, "toke", id(""))
	tk("agent id bad", 60, "tokb", id("x"))
	tk("agent id empty msg", 60, "tokm", &types.SPIFFEID{})
	r, err := entryv1.NewEntryClient(conn).ListEntries(ctx, &entryv1.ListEntriesRequest{Filter: &entryv1.ListEntriesRequest_Filter{BySpiffeId: id("/node/a")}})
	step("token alias entries", r, err)
}
