// Federation relationships.

package main

import (
	"fmt"

	federationv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/trustdomain/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
)

func federation(conn *grpc.ClientConn) {
	c := federationv1.NewTrustDomainClient(conn)
	ca := selfSigned("spiffe://f1.org").Certificate[0]
	web := func(td, url string) *types.FederationRelationship {
		return &types.FederationRelationship{TrustDomain: td, BundleEndpointUrl: url, BundleEndpointProfile: &types.FederationRelationship_HttpsWeb{HttpsWeb: &types.HTTPSWebProfile{}}}
	}
	spiffe := func(td, url, endpoint string) *types.FederationRelationship {
		return &types.FederationRelationship{TrustDomain: td, BundleEndpointUrl: url, BundleEndpointProfile: &types.FederationRelationship_HttpsSpiffe{HttpsSpiffe: &types.HTTPSSPIFFEProfile{EndpointSpiffeId: endpoint}}}
	}
	withBundle := func(r *types.FederationRelationship, b *types.Bundle) *types.FederationRelationship {
		r.TrustDomainBundle = b
		return r
	}
	url := "https://127.0.0.1:1/bundle"
	rs := map[string]*types.FederationRelationship{
		"nil": nil, "empty": {}, "web": web("r1.org", url), "id form": web("spiffe://r2.org", url), "own": web(TD, url), "bad td": web("Bad TD", url),
		"http": web("r3.org", "http://127.0.0.1:1/"), "no url": web("r3.org", ""), "no host": web("r3.org", "https://"), "user info": web("r3.org", "https://a:b@127.0.0.1:1/"), "relative": web("r3.org", "/x"), "bad url": web("r3.org", "https://%zz"),
		"spiffe":            spiffe("r4.org", url, "spiffe://r4.org/spire/server"),
		"spiffe other":      spiffe("r5.org", url, "spiffe://r6.org/x"),
		"spiffe bad":        spiffe("r7.org", url, "x"),
		"spiffe empty":      spiffe("r7.org", url, ""),
		"no profile":        {TrustDomain: "r7.org", BundleEndpointUrl: url},
		"bundle":            withBundle(spiffe("r8.org", url, "spiffe://r8.org/x"), &types.Bundle{TrustDomain: "r8.org", X509Authorities: []*types.X509Certificate{{Asn1: ca}}}),
		"bundle of another": withBundle(web("r9.org", url), &types.Bundle{TrustDomain: "r10.org"}),
		"bundle bad":        withBundle(web("r9.org", url), &types.Bundle{TrustDomain: "r9.org", X509Authorities: []*types.X509Certificate{{Asn1: []byte("x")}}}),
	}
	for _, k := range sortedKeys(rs) {
		r, err := c.BatchCreateFederationRelationship(ctx, &federationv1.BatchCreateFederationRelationshipRequest{FederationRelationships: []*types.FederationRelationship{rs[k]}})
		step("relate "+k, r, err)
	}
	r, err := c.BatchCreateFederationRelationship(ctx, &federationv1.BatchCreateFederationRelationshipRequest{})
	step("relate none", r, err)
	r, err = c.BatchCreateFederationRelationship(ctx, &federationv1.BatchCreateFederationRelationshipRequest{FederationRelationships: []*types.FederationRelationship{web("r1.org", url), web("r11.org", url), nil}, OutputMask: &types.FederationRelationshipMask{}})
	step("relate mixed masked", r, err)
	for _, k := range sortedKeys(rs) {
		u, err := c.BatchUpdateFederationRelationship(ctx, &federationv1.BatchUpdateFederationRelationshipRequest{FederationRelationships: []*types.FederationRelationship{rs[k]}})
		step("relate again "+k, u, err)
	}
	masks := map[string]*types.FederationRelationshipMask{"none": {}, "url": {BundleEndpointUrl: true}, "profile": {BundleEndpointProfile: true}, "bundle": {TrustDomainBundle: true}}
	for _, k := range sortedKeys(masks) {
		u, err := c.BatchUpdateFederationRelationship(ctx, &federationv1.BatchUpdateFederationRelationshipRequest{FederationRelationships: []*types.FederationRelationship{spiffe("r1.org", "https://127.0.0.1:2/", "spiffe://r1.org/y")}, InputMask: masks[k]})
		step("relate mask "+k, u, err)
	}
	for _, p := range []int32{0, -1, 2, 100} {
		tok := ""
		for i := 0; i < 8; i++ {
			l, err := c.ListFederationRelationships(ctx, &federationv1.ListFederationRelationshipsRequest{OutputMask: &types.FederationRelationshipMask{}, PageSize: p, PageToken: tok})
			tok = ""
			if l != nil && l.NextPageToken != "" {
				tok, l.NextPageToken = l.NextPageToken, "<tok>"
			}
			step(fmt.Sprintf("relations size %d #%d", p, i), l, err)
			if tok == "" {
				break
			}
		}
	}
	for _, t := range []string{"x", "-1", "999999"} {
		l, err := c.ListFederationRelationships(ctx, &federationv1.ListFederationRelationshipsRequest{PageSize: 2, PageToken: t})
		step("relations token "+t, l, err)
	}
	l, err := c.ListFederationRelationships(ctx, &federationv1.ListFederationRelationshipsRequest{})
	step("relations full", l, err)
	for _, td := range []string{"", "r1.org", "spiffe://r1.org", "r8.org", "zz.org", "Bad TD", TD} {
		g, err := c.GetFederationRelationship(ctx, &federationv1.GetFederationRelationshipRequest{TrustDomain: td})
		step("relation "+td, g, err)
	}
	for _, td := range []string{"", "Bad TD", "zz.org"} {
		f, err := c.RefreshBundle(ctx, &federationv1.RefreshBundleRequest{TrustDomain: td})
		step("refresh "+td, f, err)
	}
	d, err := c.BatchDeleteFederationRelationship(ctx, &federationv1.BatchDeleteFederationRelationshipRequest{TrustDomains: []string{"r1.org", "", "Bad TD", "zz.org", "spiffe://r2.org", "r1.org", TD}})
	step("unrelate", d, err)
	d, err = c.BatchDeleteFederationRelationship(ctx, &federationv1.BatchDeleteFederationRelationshipRequest{})
	step("unrelate none", d, err)
}
