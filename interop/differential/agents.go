// Agents: attestation, lists, what operators do with them.

package main

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"strings"
	"time"

	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func agents(conn *grpc.ClientConn, tcp string) {
	a := agentv1.NewAgentClient(conn)
	mk := func(t string) {
		r, err := a.CreateJoinToken(ctx, &agentv1.CreateJoinTokenRequest{Ttl: 600, Token: t})
		step("mk token "+t, r, err)
	}
	nobody := dial(tcp)
	at := func(n string, conn *grpc.ClientConn, m ...*agentv1.AttestAgentRequest) *agentv1.AttestAgentResponse {
		r, err := attest(conn, m...)
		return step("attest "+n, r, err)
	}
	for _, w := range []struct {
		n string
		c *grpc.ClientConn
	}{{"tcp", nobody}, {"local", conn}} {
		at(w.n+" closed", w.c)
		at(w.n+" empty", w.c, &agentv1.AttestAgentRequest{})
		at(w.n+" challenge first", w.c, &agentv1.AttestAgentRequest{Step: &agentv1.AttestAgentRequest_ChallengeResponse{ChallengeResponse: []byte("x")}})
		at(w.n+" no data", w.c, &agentv1.AttestAgentRequest{Step: &agentv1.AttestAgentRequest_Params_{Params: &agentv1.AttestAgentRequest_Params{}}})
		at(w.n+" nil params", w.c, &agentv1.AttestAgentRequest{Step: &agentv1.AttestAgentRequest_Params_{}})
		at(w.n+" no params", w.c, &agentv1.AttestAgentRequest{Step: &agentv1.AttestAgentRequest_Params_{Params: &agentv1.AttestAgentRequest_Params{Data: &types.AttestationData{Type: "x", Payload: []byte("y")}}}})
		at(w.n+" no csr", w.c, attParams("join_token", []byte("x"), nil))
		at(w.n+" no type", w.c, attParams("", []byte("x"), plain(keyP256)))
		at(w.n+" no payload", w.c, attParams("join_token", nil, plain(keyP256)))
		at(w.n+" unknown type", w.c, attParams("nope", []byte("x"), plain(keyP256)))
		at(w.n+" unknown type long", w.c, attParams(strings.Repeat("n", 3000), []byte("x"), plain(keyP256)))
		at(w.n+" unconfigured type", w.c, attParams("x509pop", []byte("x"), plain(keyP256)))
		at(w.n+" unknown token", w.c, attParams("join_token", []byte("nope"), plain(keyP256)))
		at(w.n+" binary token", w.c, attParams("join_token", []byte{0xff, 0, 1}, plain(keyP256)))
		at(w.n+" slash token", w.c, attParams("join_token", []byte("a/b"), plain(keyP256)))
		at(w.n+" long token", w.c, attParams("join_token", []byte(strings.Repeat("x", 70000)), plain(keyP256)))
	}
	cs := csrs("spiffe://example.org/spire/agent/join_token/zz")
	for i, k := range sortedKeys(cs) {
		t := fmt.Sprintf("tk%02d", i)
		mk(t)
		at("csr "+k, nobody, attParams("join_token", []byte(t), cs[k]))
		at("csr "+k+" token again", nobody, attParams("join_token", []byte(t), plain(keyP256)))
	}
	r, err := a.CreateJoinToken(ctx, &agentv1.CreateJoinTokenRequest{Ttl: 1, Token: "short"})
	step("short token", r, err)
	time.Sleep(2100 * time.Millisecond)
	at("expired token", nobody, attParams("join_token", []byte("short"), plain(keyP256)))
	at("expired token again", nobody, attParams("join_token", []byte("short"), plain(keyP256)))
	mk("locally")
	at("local ok", conn, attParams("join_token", []byte("locally"), plain(keyP256)))
	// listing
	type F = agentv1.ListAgentsRequest_Filter
	fs := map[string]*F{"nil": nil, "empty": {}, "type": {ByAttestationType: "join_token"}, "type none": {ByAttestationType: "x509pop"}, "banned": {ByBanned: wrapperspb.Bool(true)}, "not banned": {ByBanned: wrapperspb.Bool(false)}, "reattest": {ByCanReattest: wrapperspb.Bool(true)}, "noreattest": {ByCanReattest: wrapperspb.Bool(false)},
		"exp": {ByExpiresBefore: "2099-01-02 15:04:05 -0700 -07"}, "exp past": {ByExpiresBefore: "2000-01-02 15:04:05 +0000 UTC"}, "exp bad": {ByExpiresBefore: "yesterday"}, "exp rfc": {ByExpiresBefore: "2099-01-02T15:04:05Z"}, "exp nozone": {ByExpiresBefore: "2099-01-02 15:04:05"},
		"exp cest": {ByExpiresBefore: "2099-01-02 15:04:05 +0200 +02"},
		"selbad":   {BySelectorMatch: &types.SelectorMatch{Selectors: []*types.Selector{{Type: "a:b", Value: "x"}}}}}
	for m := 0; m < 5; m++ {
		fs[fmt.Sprintf("sel %d none", m)] = &F{BySelectorMatch: &types.SelectorMatch{Match: types.SelectorMatch_MatchBehavior(m)}}
		fs[fmt.Sprintf("sel %d a1", m)] = &F{BySelectorMatch: &types.SelectorMatch{Match: types.SelectorMatch_MatchBehavior(m), Selectors: sel("a:1")}}
	}
	for _, k := range sortedKeys(fs) {
		r, err := a.ListAgents(ctx, &agentv1.ListAgentsRequest{Filter: fs[k], OutputMask: &types.AgentMask{}})
		step("agents "+k, r, err)
		var cf *agentv1.CountAgentsRequest_Filter
		if f := fs[k]; f != nil {
			cf = &agentv1.CountAgentsRequest_Filter{ByAttestationType: f.ByAttestationType, BySelectorMatch: f.BySelectorMatch, ByBanned: f.ByBanned, ByCanReattest: f.ByCanReattest, ByExpiresBefore: f.ByExpiresBefore}
		}
		n, err := a.CountAgents(ctx, &agentv1.CountAgentsRequest{Filter: cf})
		step("count agents "+k, n, err)
	}
	for _, p := range []int32{0, -1, 1, 4} {
		tok := ""
		for i := 0; i < 8; i++ {
			r, err := a.ListAgents(ctx, &agentv1.ListAgentsRequest{OutputMask: &types.AgentMask{}, PageSize: p, PageToken: tok})
			if r != nil {
				if r.NextPageToken != "" {
					tok = r.NextPageToken
					r.NextPageToken = "<tok>"
				} else {
					tok = ""
				}
			}
			step(fmt.Sprintf("agents size %d #%d", p, i), r, err)
			if tok == "" {
				break
			}
		}
	}
	for _, t := range []string{"x", "-1", "999999"} {
		r, err := a.ListAgents(ctx, &agentv1.ListAgentsRequest{PageSize: 2, PageToken: t})
		step("agents token "+t, r, err)
	}
	l, err := a.ListAgents(ctx, &agentv1.ListAgentsRequest{})
	step("agents full", l, err)
	ids := map[string]*types.SPIFFEID{"nil": nil, "empty": {}, "unknown": id("/spire/agent/join_token/zzz"), "nonagent": id("/foo"), "server": id("/spire/server"), "agentonly": id("/spire/agent"), "foreign": fid("other.org", "/spire/agent/x"), "bad": id("x"), "emptypath": id(""), "badtd": fid("X Y", "/spire/agent/x")}
	for _, k := range sortedKeys(ids) {
		g, err := a.GetAgent(ctx, &agentv1.GetAgentRequest{Id: ids[k]})
		step("get agent "+k, g, err)
		d, err := a.DeleteAgent(ctx, &agentv1.DeleteAgentRequest{Id: ids[k]})
		step("delete agent "+k, d, err)
		b, err := a.BanAgent(ctx, &agentv1.BanAgentRequest{Id: ids[k]})
		step("ban agent "+k, b, err)
	}
	me := id("/spire/agent/join_token/locally")
	g, err := a.GetAgent(ctx, &agentv1.GetAgentRequest{Id: me})
	step("get agent", g, err)
	g, err = a.GetAgent(ctx, &agentv1.GetAgentRequest{Id: me, OutputMask: &types.AgentMask{}})
	step("get agent masked", g, err)
	g, err = a.GetAgent(ctx, &agentv1.GetAgentRequest{Id: me, OutputMask: &types.AgentMask{Selectors: true, Banned: true, X509SvidSerialNumber: true, AgentVersion: true}})
	step("get agent part", g, err)
	b, err := a.BanAgent(ctx, &agentv1.BanAgentRequest{Id: me})
	step("ban", b, err)
	b, err = a.BanAgent(ctx, &agentv1.BanAgentRequest{Id: me})
	step("ban again", b, err)
	g, err = a.GetAgent(ctx, &agentv1.GetAgentRequest{Id: me})
	step("get banned", g, err)
	mk("locally")
	at("banned again", conn, attParams("join_token", []byte("locally"), plain(keyP256)))
	d, err := a.DeleteAgent(ctx, &agentv1.DeleteAgentRequest{Id: me})
	step("delete", d, err)
	mk("locally")
	rn, err := a.RenewAgent(ctx, &agentv1.RenewAgentRequest{})
	step("renew local", rn, err)
	ps, err := a.PostStatus(ctx, &agentv1.PostStatusRequest{})
	step("poststatus local", ps, err)
}

func withAttr(key crypto.Signer) []byte {
	t := x509.CertificateRequest{Subject: pkix.Name{CommonName: "x", ExtraNames: []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 5, 4, 65}, Value: "pseudo"}, {Type: asn1.ObjectIdentifier{1, 2, 3, 4}, Value: "odd"}}}}
	return must(x509.CreateCertificateRequest(rand.Reader, &t, key))
}

func csrs(uri string) map[string][]byte {
	return map[string][]byte{
		"p256": plain(keyP256), "p384": plain(keyP384), "p521": plain(keyP521), "p224": plain(keyP224), "rsa2048": plain(keyRSA2048), "rsa1024": plain(keyRSA1024), "rsa4096": plain(keyRSA4096),
		"ed25519": plain(keyEd), "uri": plain(keyP256, uri), "other uri": plain(keyP256, "spiffe://other.org/x"), "two uris": plain(keyP256, "spiffe://example.org/a", "spiffe://example.org/b"), "http uri": plain(keyP256, "http://example.org"),
		"subject": csr(keyP256, pkix.Name{CommonName: "evil", Organization: []string{"Evil"}, Country: []string{"XX"}}, []string{"evil.com"}, uri),
		"bad sig": badSig(plain(keyP256)), "garbage": []byte("garbage"), "trailing": append(plain(keyP256), 0), "attr": withAttr(keyP256),
		"empty seq": {0x30, 0}, "truncated": plain(keyP256)[:50],
	}
}

var keyEd = must2(ed25519.GenerateKey(rand.Reader))

func must2(_ ed25519.PublicKey, key ed25519.PrivateKey, err error) ed25519.PrivateKey {
	if err != nil {
		panic(err)
	}
	return key
}
