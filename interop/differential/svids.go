// Mints, and what is at the edges of the protocol.

package main

import (
	"crypto"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"strings"

	debugv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/debug/v1"
	localv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/localauthority/v1"
	loggerv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/logger/v1"
	svidv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/emptypb"
)

func mint(conn *grpc.ClientConn) {
	s := svidv1.NewSVIDClient(conn)
	m := func(n string, c []byte, ttl int32) {
		r, err := s.MintX509SVID(ctx, &svidv1.MintX509SVIDRequest{Csr: c, Ttl: ttl})
		step("mint "+n, r, err)
	}
	m("nothing", nil, 0)
	cs := csrs("spiffe://example.org/minted")
	for _, k := range sortedKeys(cs) {
		m(k, cs[k], 0)
	}
	for _, u := range []string{"spiffe://example.org", "spiffe://example.org/", "spiffe://example.org/spire/server", "spiffe://example.org/spire/agent/x", "spiffe://example.org/a//b", "spiffe://EXAMPLE.org/a", "spiffe://example.org/a?b", "spiffe://example.org/a#b", "spiffe://example.org:80/a", "spiffe://user@example.org/a", "SPIFFE://example.org/a", "spiffe://example.org/a%20b", "/relative", "spiffe:///a"} {
		m("uri "+u, plain(keyP256, u), 0)
	}
	ok := plain(keyP256, "spiffe://example.org/minted")
	for _, k := range []crypto.Signer{keyP384, keyP521, keyP224, keyRSA2048, keyRSA1024, keyRSA4096, keyEd} {
		m(fmt.Sprintf("key %s", descKey(k.Public())), plain(k, "spiffe://example.org/minted"), 0)
	}
	for _, t := range []int32{1, -1, 60, 3600, 100000000, 2147483647} {
		m(fmt.Sprintf("ttl %d", t), ok, t)
	}
	for _, d := range [][]string{{"a.com"}, {"b.com", "a.com"}, {"a.com", "a.com"}, {"*.a.com", "x.a.com"}, {"*.a.com"}, {""}, {"a b"}, {"a..b"}, {strings.Repeat("a", 64)}, {"A.com"}, {"xn--bcher-kva.de"}} {
		m(fmt.Sprintf("dns %q", d), csr(keyP256, pkix.Name{}, d, "spiffe://example.org/minted"), 0)
	}
	m("subject", csr(keyP256, pkix.Name{CommonName: "cn", Organization: []string{"Org"}, Country: []string{"DE"}, OrganizationalUnit: []string{"ou1", "ou2"}, Locality: []string{"L"}, Province: []string{"P"}, StreetAddress: []string{"S"}, PostalCode: []string{"PC"}, SerialNumber: "55"}, nil, "spiffe://example.org/minted"), 0)
	m("subject cn + dns", csr(keyP256, pkix.Name{CommonName: "cn"}, []string{"a.com"}, "spiffe://example.org/minted"), 0)
	m("subject x500uid", csr(keyP256, pkix.Name{CommonName: "cn", ExtraNames: []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 5, 4, 45}, Value: "uid"}}}, nil, "spiffe://example.org/minted"), 0)
	m("subject utf8", csr(keyP256, pkix.Name{CommonName: "Bücher"}, nil, "spiffe://example.org/minted"), 0)
	j := func(n string, i *types.SPIFFEID, ttl int32, aud ...string) {
		r, err := s.MintJWTSVID(ctx, &svidv1.MintJWTSVIDRequest{Id: i, Audience: aud, Ttl: ttl})
		step("mintjwt "+n, r, err)
	}
	j("nil", nil, 0, "a")
	j("no aud", id("/x"), 0)
	j("empty aud", id("/x"), 0, "")
	j("mixed empty aud", id("/x"), 0, "", "b")
	j("one", id("/x"), 0, "a")
	j("dup", id("/x"), 0, "a", "a")
	j("two", id("/x"), 0, "b", "a")
	j("ttl", id("/x"), 10, "a")
	j("ttl neg", id("/x"), -10, "a")
	j("ttl huge", id("/x"), 2147483647, "a")
	j("foreign", fid("other.org", "/x"), 0, "a")
	j("empty path", id(""), 0, "a")
	j("reserved", id("/spire/x"), 0, "a")
	j("bad", id("x"), 0, "a")
	j("no aud and bad", id("x"), 0)
	j("html", id("/x"), 0, "<a>&\u2028")
	b, err := s.BatchNewX509SVID(ctx, &svidv1.BatchNewX509SVIDRequest{})
	step("batch local", b, err)
	nj, err := s.NewJWTSVID(ctx, &svidv1.NewJWTSVIDRequest{})
	step("newjwt local", nj, err)
	d, err := s.NewDownstreamX509CA(ctx, &svidv1.NewDownstreamX509CARequest{})
	step("downstream local", d, err)
	w, err := s.MintWITSVID(ctx, &svidv1.MintWITSVIDRequest{})
	step("mintwit local", w, err)
}

func misc(conn *grpc.ClientConn) {
	h := grpc_health_v1.NewHealthClient(conn)
	for _, n := range []string{"", "spire", "spire.api.server.entry.v1.Entry"} {
		r, err := h.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: n})
		step("health "+n, r, err)
	}
	w, err := h.Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err == nil {
		_, err = w.Recv()
	}
	step("health watch", &emptypb.Empty{}, err)
	hl, err := h.List(ctx, &grpc_health_v1.HealthListRequest{})
	step("health list", hl, err)
	l := loggerv1.NewLoggerClient(conn)
	lr, err := l.GetLogger(ctx, &loggerv1.GetLoggerRequest{})
	step("logger get", lr, err)
	for _, v := range []int32{0, 1, 2, 3, 4, 5, 6, 7, 8, -1, 6} {
		lr, err := l.SetLogLevel(ctx, &loggerv1.SetLogLevelRequest{NewLevel: types.LogLevel(v)})
		step(fmt.Sprintf("logger set %d", v), lr, err)
	}
	lr, err = l.ResetLogLevel(ctx, &loggerv1.ResetLogLevelRequest{})
	step("logger reset", lr, err)
	d, err := debugv1.NewDebugClient(conn).GetInfo(ctx, &debugv1.GetInfoRequest{})
	if d != nil {
		d.Uptime = 0
	}
	step("debug", d, err)
	unknown(conn, "local")
	la := localv1.NewLocalAuthorityClient(conn)
	js, err := la.GetJWTAuthorityState(ctx, &localv1.GetJWTAuthorityStateRequest{})
	step("jwt state", js, err)
	xs, err := la.GetX509AuthorityState(ctx, &localv1.GetX509AuthorityStateRequest{})
	step("x509 state", xs, err)
	ws, err := la.GetWITAuthorityState(ctx, &localv1.GetWITAuthorityStateRequest{})
	step("wit state", ws, err)
}

func unknown(conn *grpc.ClientConn, n string) {
	for _, m := range []string{"/nope.Service/X", "/spire.api.server.entry.v1.Entry/Nope", "/spire.api.server.entry.v1.Nope/ListEntries", "/x", "//", "/a/b/c", "/SpiffeWorkloadAPI/FetchX509SVID", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/grpc.health.v1.Health/Check", "/spire.api.server.logger.v1.Logger/GetLogger", "/spire.api.server.debug.v1.Debug/GetInfo", "/spire.api.server.trustdomain.v1.TrustDomain/ListFederationRelationships", "/spire.api.server.localauthority.v1.LocalAuthority/GetJWTAuthorityState"} {
		o := &emptypb.Empty{}
		err := conn.Invoke(ctx, m, &emptypb.Empty{}, o)
		if err == nil {
			o = &emptypb.Empty{}
		}
		step(n+" method "+m, &emptypb.Empty{}, err)
	}
	raw := func(what, m string, b []byte) {
		var o []byte
		err := conn.Invoke(ctx, m, &b, &o, grpc.ForceCodec(rawCodec{}))
		step(n+" raw "+what, &emptypb.Empty{}, err)
	}
	raw("garbage", "/spire.api.server.entry.v1.Entry/ListEntries", []byte{0xff, 0xff, 0xff})
	raw("wrong wire type", "/spire.api.server.entry.v1.Entry/GetEntry", []byte{0x08, 0x01})
	raw("bad utf8", "/spire.api.server.entry.v1.Entry/GetEntry", []byte{0x0a, 0x02, 0xff, 0xfe})
	raw("truncated", "/spire.api.server.entry.v1.Entry/GetEntry", []byte{0x0a, 0x20, 'a'})
	raw("unknown fields", "/spire.api.server.entry.v1.Entry/CountEntries", []byte{0xfa, 0x3e, 0x01, 'a'})
	raw("big 4MiB+", "/spire.api.server.entry.v1.Entry/CountEntries", append([]byte{0xfa, 0x3e, 0x80, 0x80, 0x80, 0x02}, make([]byte, 4<<20)...))
	raw("big 4MiB-", "/spire.api.server.entry.v1.Entry/CountEntries", append([]byte{0xfa, 0x3e, 0xf0, 0xff, 0xff, 0x01}, make([]byte, 4<<20-16)...))
}

type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error)   { return *v.(*[]byte), nil }
func (rawCodec) Unmarshal(b []byte, v any) error { *v.(*[]byte) = b; return nil }
func (rawCodec) Name() string                    { return "proto" }
