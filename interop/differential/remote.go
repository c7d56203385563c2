// Callers over TCP: who is let in, and what agents and downstream servers get.

package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	svidv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

type who struct {
	n string
	c *grpc.ClientConn
}

func remote(local *grpc.ClientConn, tcp string) {
	a := agentv1.NewAgentClient(local)
	mkAgent := func(t string) (*types.X509SVID, *grpc.ClientConn) {
		_, err := a.CreateJoinToken(ctx, &agentv1.CreateJoinTokenRequest{Ttl: 600, Token: t})
		if err != nil {
			panic(err)
		}
		r, err := attest(dial(tcp), attParams("join_token", []byte(t), plain(keyP256)))
		step("attest "+t, r, err)
		sv := r.GetResult().Svid
		return sv, dial(tcp, tlsCert(sv, keyP256))
	}
	agentSvid, agent := mkAgent("ra")
	_, banned := mkAgent("rban")
	_, evicted := mkAgent("revict")
	_, renewed := mkAgent("rrenew")
	e := entryv1.NewEntryClient(local)
	parent := id("/spire/agent/join_token/ra")
	mk := func(i string, f func(*types.Entry)) {
		r, err := e.BatchCreateEntry(ctx, &entryv1.BatchCreateEntryRequest{Entries: []*types.Entry{edit(i, func(e *types.Entry) {
			e.ParentId = parent
			if f != nil {
				f(e)
			}
		})}, OutputMask: &types.EntryMask{}})
		step("mk entry "+i, r, err)
	}
	mk("radmin", func(e *types.Entry) { e.Admin = true })
	mk("rdown", func(e *types.Entry) { e.Downstream = true })
	mk("rplain", nil)
	mk("rdns", func(e *types.Entry) { e.DnsNames = []string{"b.com", "a.com"}; e.X509SvidTtl = 120; e.JwtSvidTtl = 130 })
	mk("rttl", func(e *types.Entry) { e.X509SvidTtl = 1 << 30; e.JwtSvidTtl = 1 << 30 })
	mk("roverlap", func(e *types.Entry) { e.DnsNames = []string{"*.b.com", "a.b.com"} })
	mk("rchild", func(e *types.Entry) { e.ParentId = id("/w/rplain") })
	mk("rexp", func(e *types.Entry) { e.ExpiresAt = now.Unix() - 36000 })
	mk("rjti", func(e *types.Entry) {
		e.AdditionalAttributes = &types.Entry_AdditionalAttributes{JwtSvidIncludeJti: true}
	})
	mk("relse", func(e *types.Entry) { e.ParentId = id("/spire/agent/join_token/other") })
	time.Sleep(5500 * time.Millisecond)
	logs()
	sv := svidv1.NewSVIDClient(agent)
	get := func(i string) tls2 {
		r, err := sv.BatchNewX509SVID(ctx, &svidv1.BatchNewX509SVIDRequest{Params: []*svidv1.NewX509SVIDParams{{EntryId: i, Csr: plain(keyP256)}}})
		step("svid "+i, r, err)
		return tls2{r}
	}
	admin := get("radmin").dial(tcp)
	down := get("rdown").dial(tcp)
	plainW := get("rplain").dial(tcp)
	for _, i := range []string{"rdns", "rttl", "roverlap", "rchild", "rexp", "rjti", "relse", "", "nope"} {
		get(i)
	}
	_, err := a.BanAgent(ctx, &agentv1.BanAgentRequest{Id: id("/spire/agent/join_token/rban")})
	step("ban rban", &emptypb.Empty{}, err)
	_, err = a.DeleteAgent(ctx, &agentv1.DeleteAgentRequest{Id: id("/spire/agent/join_token/revict")})
	step("evict", &emptypb.Empty{}, err)
	time.Sleep(1500 * time.Millisecond)
	whos := []who{{"nobody", dial(tcp)}, {"agent", agent}, {"banned", banned}, {"evicted", evicted}, {"admin", admin}, {"down", down}, {"plain", plainW},
		{"selfsigned", dial(tcp, selfSigned("spiffe://example.org/x"))}, {"foreign", dial(tcp, selfSigned("spiffe://other.org/x"))}, {"nouri", dial(tcp, selfSigned())}, {"twouri", dial(tcp, selfSigned("spiffe://example.org/x", "spiffe://example.org/y"))}, {"baduri", dial(tcp, selfSigned("http://example.org/x"))}, {"agent+leaf only wrong key", dial(tcp, selfSigned("spiffe://example.org/spire/agent/join_token/ra"))}}
	_ = agentSvid
	for _, w := range whos {
		everything(w)
	}
	// batch
	cs := csrs("spiffe://evil.org/x")
	for _, k := range sortedKeys(cs) {
		r, err := sv.BatchNewX509SVID(ctx, &svidv1.BatchNewX509SVIDRequest{Params: []*svidv1.NewX509SVIDParams{{EntryId: "rplain", Csr: cs[k]}}})
		step("batch csr "+k, r, err)
	}
	r, err := sv.BatchNewX509SVID(ctx, &svidv1.BatchNewX509SVIDRequest{Params: []*svidv1.NewX509SVIDParams{{EntryId: "rplain", Csr: plain(keyP256)}, {}, {EntryId: "rplain"}, {Csr: plain(keyP256)}, nil, {EntryId: "nope", Csr: plain(keyP256)}, {EntryId: "rdns", Csr: plain(keyP384)}}})
	step("batch mixed", r, err)
	r, err = sv.BatchNewX509SVID(ctx, &svidv1.BatchNewX509SVIDRequest{})
	step("batch none", r, err)
	many := &svidv1.BatchNewX509SVIDRequest{}
	c1 := plain(keyP256)
	for i := 0; i < 501; i++ {
		many.Params = append(many.Params, &svidv1.NewX509SVIDParams{EntryId: "nope", Csr: c1})
	}
	r, err = sv.BatchNewX509SVID(ctx, many)
	if r != nil {
		r.Results = r.Results[:1]
	}
	step("batch 501", r, err)
	logs()
	nj := func(i string, aud ...string) {
		r, err := sv.NewJWTSVID(ctx, &svidv1.NewJWTSVIDRequest{EntryId: i, Audience: aud})
		step(fmt.Sprintf("newjwt %s %q", i, aud), r, err)
	}
	nj("rplain", "a")
	nj("rplain")
	nj("rplain", "")
	nj("", "a")
	nj("nope", "a")
	nj("nope")
	nj("relse", "a")
	nj("rexp", "a")
	nj("rdns", "b", "a")
	nj("rttl", "a")
	nj("rjti", "a")
	nj("rchild", "a")
	// downstream
	ds := svidv1.NewSVIDClient(down)
	for _, k := range sortedKeys(cs) {
		r, err := ds.NewDownstreamX509CA(ctx, &svidv1.NewDownstreamX509CARequest{Csr: cs[k]})
		step("downstream "+k, r, err)
	}
	for _, t := range []int32{1, -1, 60, 2147483647} {
		r, err := ds.NewDownstreamX509CA(ctx, &svidv1.NewDownstreamX509CARequest{Csr: plain(keyP256, "spiffe://example.org"), PreferredTtl: t})
		step(fmt.Sprintf("downstream ttl %d", t), r, err)
	}
	db := bundlev1.NewBundleClient(down)
	pk := must(x509.MarshalPKIXPublicKey(keyP256.Public()))
	for n, k := range map[string]*types.JWTKey{"ok": {PublicKey: pk, KeyId: "pub", ExpiresAt: 1999999999}} {
		r, err := db.PublishJWTAuthority(ctx, &bundlev1.PublishJWTAuthorityRequest{JwtAuthority: k})
		if r != nil {
			r.JwtAuthorities = r.JwtAuthorities[len(r.JwtAuthorities)-1:]
		}
		step("publish "+n, r, err)
	}
	for _, k := range []*types.JWTKey{nil, {}, {KeyId: "x"}, {PublicKey: pk}, {PublicKey: []byte("x"), KeyId: "x"}, {PublicKey: pk, KeyId: "pubt", Tainted: true}, {PublicKey: pk, KeyId: "pub2", ExpiresAt: -1}} {
		r, err := db.PublishJWTAuthority(ctx, &bundlev1.PublishJWTAuthorityRequest{JwtAuthority: k})
		if r != nil {
			r.JwtAuthorities = r.JwtAuthorities[len(r.JwtAuthorities)-1:]
		}
		step("publish bad", r, err)
	}
	// status
	aa := agentv1.NewAgentClient(agent)
	for _, v := range []string{"", "1.2.3", strings.Repeat("v", 255), strings.Repeat("v", 256), strings.Repeat("é", 200), "a\nb"} {
		r, err := aa.PostStatus(ctx, &agentv1.PostStatusRequest{AgentVersion: v, CurrentBundleSerial: 7})
		step(fmt.Sprintf("poststatus %d", len(v)), r, err)
	}
	g, err := a.GetAgent(ctx, &agentv1.GetAgentRequest{Id: parent})
	step("get agent after status", g, err)
	// renew
	ra := agentv1.NewAgentClient(renewed)
	rn := func(n string, c agentv1.AgentClient, p *agentv1.AgentX509SVIDParams) *types.X509SVID {
		r, err := c.RenewAgent(ctx, &agentv1.RenewAgentRequest{Params: p})
		step("renew "+n, r, err)
		return r.GetSvid()
	}
	rn("nil", ra, nil)
	rn("empty", ra, &agentv1.AgentX509SVIDParams{})
	for _, k := range sortedKeys(cs) {
		if k == "p256" {
			continue
		}
		rn("csr "+k, ra, &agentv1.AgentX509SVIDParams{Csr: cs[k]})
	}
	new1 := rn("1", ra, &agentv1.AgentX509SVIDParams{Csr: plain(keyP256)})
	rid := id("/spire/agent/join_token/rrenew")
	g, err = a.GetAgent(ctx, &agentv1.GetAgentRequest{Id: rid})
	step("after renew, before use", g, err)
	ae := func(n string, c *grpc.ClientConn) {
		r, err := entryv1.NewEntryClient(c).GetAuthorizedEntries(ctx, &entryv1.GetAuthorizedEntriesRequest{})
		step("authorized "+n, r, err)
	}
	ae("old", renewed)
	new2 := rn("2 with old", ra, &agentv1.AgentX509SVIDParams{Csr: plain(keyP256)})
	c1n := dial(tcp, tlsCert(new1, keyP256))
	c2n := dial(tcp, tlsCert(new2, keyP256))
	ae("new1", c1n)
	ae("new2", c2n)
	ae("old after", renewed)
	ae("new1 after", c1n)
	ae("new2 again", c2n)
	rn("old", ra, &agentv1.AgentX509SVIDParams{Csr: plain(keyP256)})
	g, err = a.GetAgent(ctx, &agentv1.GetAgentRequest{Id: rid})
	step("after use", g, err)
	// re-attest with the same id
	_, err = a.CreateJoinToken(ctx, &agentv1.CreateJoinTokenRequest{Ttl: 600, Token: "rrenew"})
	r2, err := attest(dial(tcp), attParams("join_token", []byte("rrenew"), plain(keyP256)))
	step("reattest same token", r2, err)
	ae("new2 after reattest", c2n)
	unknown(agent, "agent")
	unknown(dial(tcp), "nobody")
}

type tls2 struct {
	r *svidv1.BatchNewX509SVIDResponse
}

func (t tls2) dial(tcp string) *grpc.ClientConn {
	return dial(tcp, tlsCert(t.r.Results[0].Svid, keyP256))
}

func everything(w who) {
	for _, m := range []string{
		"agent.v1.Agent/CountAgents", "agent.v1.Agent/GetAgent", "agent.v1.Agent/DeleteAgent", "agent.v1.Agent/BanAgent", "agent.v1.Agent/RenewAgent", "agent.v1.Agent/PostStatus", "agent.v1.Agent/CreateJoinToken", "agent.v1.Agent/AttestAgent",
		"bundle.v1.Bundle/CountBundles", "bundle.v1.Bundle/GetBundle", "bundle.v1.Bundle/AppendBundle", "bundle.v1.Bundle/PublishJWTAuthority", "bundle.v1.Bundle/PublishWITAuthority", "bundle.v1.Bundle/GetFederatedBundle", "bundle.v1.Bundle/BatchSetFederatedBundle",
		"entry.v1.Entry/CountEntries", "entry.v1.Entry/GetEntry", "entry.v1.Entry/BatchCreateEntry", "entry.v1.Entry/GetAuthorizedEntries", "entry.v1.Entry/SyncAuthorizedEntries",
		"svid.v1.SVID/MintX509SVID", "svid.v1.SVID/MintJWTSVID", "svid.v1.SVID/MintWITSVID", "svid.v1.SVID/BatchNewX509SVID", "svid.v1.SVID/NewJWTSVID", "svid.v1.SVID/BatchNewWITSVID", "svid.v1.SVID/NewDownstreamX509CA",
		"trustdomain.v1.TrustDomain/ListFederationRelationships", "localauthority.v1.LocalAuthority/GetX509AuthorityState",
	} {
		c, cancel := context.WithTimeout(ctx, 5*time.Second)
		var o []byte
		var in []byte
		err := w.c.Invoke(c, "/spire.api.server."+m, &in, &o, grpc.ForceCodec(rawCodec{}))
		cancel()
		step(w.n+" "+m, &emptypb.Empty{}, err)
	}
}
