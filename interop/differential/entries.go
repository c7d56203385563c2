// Entries: rules, masks, filters, pages.

package main

import (
	"fmt"
	"strings"

	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func good(i string) *types.Entry {
	return &types.Entry{Id: i, SpiffeId: id("/w/" + i), ParentId: id("/spire/agent/join_token/none"), Selectors: sel("unix:uid:" + i)}
}

func edit(i string, f func(*types.Entry)) *types.Entry { e := good(i); f(e); return e }

func badEntries() map[string]*types.Entry {
	long := strings.Repeat("x", 3000)
	m := map[string]*types.Entry{
		"nil spiffe":           edit("b", func(e *types.Entry) { e.SpiffeId = nil }),
		"nil parent":           edit("b", func(e *types.Entry) { e.ParentId = nil }),
		"foreign spiffe":       edit("b", func(e *types.Entry) { e.SpiffeId = fid("other.org", "/x") }),
		"foreign parent":       edit("b", func(e *types.Entry) { e.ParentId = fid("other.org", "/x") }),
		"td id form":           edit("b1", func(e *types.Entry) { e.SpiffeId = fid("spiffe://example.org", "/x1") }),
		"td id form path":      edit("b2", func(e *types.Entry) { e.SpiffeId = fid("spiffe://example.org/foo", "/x2") }),
		"td bad":               edit("b", func(e *types.Entry) { e.SpiffeId = fid("Example.org", "/x") }),
		"td empty":             edit("b", func(e *types.Entry) { e.SpiffeId = fid("", "/x") }),
		"td scheme":            edit("b", func(e *types.Entry) { e.SpiffeId = fid("http://example.org", "/x") }),
		"path empty":           edit("b", func(e *types.Entry) { e.SpiffeId = id("") }),
		"path slash":           edit("b", func(e *types.Entry) { e.SpiffeId = id("/") }),
		"path noslash":         edit("b", func(e *types.Entry) { e.SpiffeId = id("x") }),
		"path double":          edit("b", func(e *types.Entry) { e.SpiffeId = id("//x") }),
		"path dots":            edit("b", func(e *types.Entry) { e.SpiffeId = id("/../x") }),
		"path dot":             edit("b", func(e *types.Entry) { e.SpiffeId = id("/./x") }),
		"path char":            edit("b", func(e *types.Entry) { e.SpiffeId = id("/x y") }),
		"path pct":             edit("b", func(e *types.Entry) { e.SpiffeId = id("/x%20y") }),
		"path utf8":            edit("b", func(e *types.Entry) { e.SpiffeId = id("/é") }),
		"path trailing":        edit("b", func(e *types.Entry) { e.SpiffeId = id("/x/") }),
		"path long":            edit("b", func(e *types.Entry) { e.SpiffeId = id("/" + long) }),
		"reserved":             edit("b", func(e *types.Entry) { e.SpiffeId = id("/spire") }),
		"reserved agent":       edit("b", func(e *types.Entry) { e.SpiffeId = id("/spire/agent/x/y") }),
		"reserved server":      edit("b", func(e *types.Entry) { e.SpiffeId = id("/spire/server") }),
		"reserved foo":         edit("b", func(e *types.Entry) { e.SpiffeId = id("/spire/foo") }),
		"reserved prefix ok":   edit("b3", func(e *types.Entry) { e.SpiffeId = id("/spirefoo") }),
		"parent empty path":    edit("b", func(e *types.Entry) { e.ParentId = id("") }),
		"parent server":        edit("b4", func(e *types.Entry) { e.ParentId = id("/spire/server") }),
		"parent reserved":      edit("b5", func(e *types.Entry) { e.ParentId = id("/spire/foo") }),
		"parent workload":      edit("b6", func(e *types.Entry) { e.ParentId = id("/w/a") }),
		"parent bad":           edit("b", func(e *types.Entry) { e.ParentId = id("x") }),
		"parent = self":        edit("b7", func(e *types.Entry) { e.ParentId = id("/w/b7") }),
		"no selectors":         edit("b", func(e *types.Entry) { e.Selectors = nil }),
		"selector no type":     edit("b", func(e *types.Entry) { e.Selectors = []*types.Selector{{Type: "", Value: "x"}} }),
		"selector type colon":  edit("b", func(e *types.Entry) { e.Selectors = []*types.Selector{{Type: "a:b", Value: "x"}} }),
		"selector no value":    edit("b", func(e *types.Entry) { e.Selectors = []*types.Selector{{Type: "a", Value: ""}} }),
		"selector empty":       edit("b", func(e *types.Entry) { e.Selectors = []*types.Selector{{}} }),
		"selector dup":         edit("b8", func(e *types.Entry) { e.Selectors = sel("a:b", "a:b", "c:d", "a:a") }),
		"selector long type":   edit("b9", func(e *types.Entry) { e.Selectors = []*types.Selector{{Type: strings.Repeat("t", 300), Value: "x"}} }),
		"selector long value":  edit("b10", func(e *types.Entry) { e.Selectors = []*types.Selector{{Type: "t", Value: long}} }),
		"x509 ttl neg":         edit("b", func(e *types.Entry) { e.X509SvidTtl = -1 }),
		"jwt ttl neg":          edit("b", func(e *types.Entry) { e.JwtSvidTtl = -1 }),
		"ttl huge":             edit("b11", func(e *types.Entry) { e.X509SvidTtl = 1 << 30; e.JwtSvidTtl = 1 << 30 }),
		"expires neg":          edit("b12", func(e *types.Entry) { e.ExpiresAt = -5 }),
		"expires past":         edit("b13", func(e *types.Entry) { e.ExpiresAt = 5 }),
		"hint long":            edit("b", func(e *types.Entry) { e.Hint = strings.Repeat("h", 1025) }),
		"hint 1024":            edit("b14", func(e *types.Entry) { e.Hint = strings.Repeat("h", 1024) }),
		"hint utf8 1024 chars": edit("b15", func(e *types.Entry) { e.Hint = strings.Repeat("é", 600) }),
		"id bad":               edit("b", func(e *types.Entry) { e.Id = "a/b" }),
		"id bad2":              edit("b", func(e *types.Entry) { e.Id = "a b" }),
		"id utf8":              edit("b", func(e *types.Entry) { e.Id = "é" }),
		"id long":              edit("b", func(e *types.Entry) { e.Id = strings.Repeat("i", 256) }),
		"id 255":               edit("b", func(e *types.Entry) { e.Id = strings.Repeat("i", 255); e.SpiffeId = id("/w/255") }),
		"id chars":             edit("b", func(e *types.Entry) { e.Id = "A_b.c-9"; e.SpiffeId = id("/w/chars") }),
		"federates unknown":    edit("b", func(e *types.Entry) { e.FederatesWith = []string{"unknown.org"} }),
		"federates bad":        edit("b", func(e *types.Entry) { e.FederatesWith = []string{"Bad TD"} }),
		"federates empty":      edit("b", func(e *types.Entry) { e.FederatesWith = []string{""} }),
		"federates self":       edit("b", func(e *types.Entry) { e.FederatesWith = []string{"example.org"} }),
		"store mixed":          edit("b", func(e *types.Entry) { e.StoreSvid = true; e.Selectors = sel("a:1", "b:2") }),
		"store same":           edit("b16", func(e *types.Entry) { e.StoreSvid = true; e.Selectors = sel("a:1", "a:2") }),
		"store prefetch": edit("b17", func(e *types.Entry) {
			e.StoreSvid = true
			e.Selectors = sel("a:1", "a:2")
			e.AdditionalAttributes = &types.Entry_AdditionalAttributes{DisableX509SvidPrefetch: true}
		}),
		"attrs": edit("b18", func(e *types.Entry) {
			e.AdditionalAttributes = &types.Entry_AdditionalAttributes{DisableX509SvidPrefetch: true, JwtSvidIncludeJti: true}
		}),
		"attrs empty":      edit("b19", func(e *types.Entry) { e.AdditionalAttributes = &types.Entry_AdditionalAttributes{} }),
		"admin downstream": edit("b20", func(e *types.Entry) { e.Admin = true; e.Downstream = true; e.RevisionNumber = 9; e.CreatedAt = 44 }),
		"duplicate id":     edit("dup", func(e *types.Entry) { e.Id = "e1" }),
		"zero":             {},
	}
	for i, d := range []string{"", " ", ".", "a.", "a..b", "-a", "a-", "*", "*.a", "a.*", "*.*.a", "a b", "é.com", "xn--bcher-kva.de", "xn--zzzz", "a_b", "A.com", "1.2.3.4", "a/b", "a:b", strings.Repeat("a", 64), strings.Repeat("a.", 130) + "a", "ab--cd", "xn--", " a.com", "a.com ", "a@b", "localhost", "*.", "*a.com", "a\x00b", "XN--bcher-kva.de"} {
		n := fmt.Sprintf("d%02d", i)
		m["dns "+n+" "+d[:min(len(d), 20)]] = edit(n, func(e *types.Entry) { e.DnsNames = []string{d} })
	}
	m["dns dup"] = edit("dd1", func(e *types.Entry) { e.DnsNames = []string{"a.com", "a.com"} })
	m["dns overlap"] = edit("dd2", func(e *types.Entry) { e.DnsNames = []string{"a.b.com", "*.b.com"} })
	m["dns order"] = edit("dd3", func(e *types.Entry) { e.DnsNames = []string{"z.com", "a.com", "M.com"} })
	return m
}

func entriesLocal(conn *grpc.ClientConn) {
	c := entryv1.NewEntryClient(conn)
	create := func(n string, mask *types.EntryMask, es ...*types.Entry) {
		r, err := c.BatchCreateEntry(ctx, &entryv1.BatchCreateEntryRequest{Entries: es, OutputMask: mask})
		step("create "+n, r, err)
	}
	create("none", nil)
	create("e1", nil, good("e1"))
	create("e1 again", nil, good("e1"))
	create("e1 similar other id", nil, edit("e1", func(e *types.Entry) { e.Id = "e1b"; e.Hint = "zz" }))
	create("e1 similar no id", nil, edit("e1", func(e *types.Entry) { e.Id = "" }))
	create("e1 similar empty mask", &types.EntryMask{}, edit("e1", func(e *types.Entry) { e.Id = "" }))
	create("no id", &types.EntryMask{}, edit("noid", func(e *types.Entry) { e.Id = "" }))
	create("empty mask", &types.EntryMask{}, good("e2"))
	create("part mask", &types.EntryMask{SpiffeId: true, CreatedAt: true, AdditionalAttributes: true}, good("e3"))
	create("mixed", nil, good("e4"), edit("x", func(e *types.Entry) { e.SpiffeId = nil }), good("e5"), good("e4"), nil)
	bad := badEntries()
	for _, k := range sortedKeys(bad) {
		create(k, nil, bad[k])
	}
	get := func(n string, i string, m *types.EntryMask) {
		r, err := c.GetEntry(ctx, &entryv1.GetEntryRequest{Id: i, OutputMask: m})
		step("get "+n, r, err)
	}
	get("e1", "e1", nil)
	get("empty", "", nil)
	get("unknown", "nope", nil)
	get("weird", "a/b c", nil)
	get("long", strings.Repeat("z", 5000), nil)
	get("emptymask", "e1", &types.EntryMask{})
	get("part", "b18", &types.EntryMask{ParentId: true, AdditionalAttributes: true, Selectors: true})
	upd := func(n string, in, out *types.EntryMask, es ...*types.Entry) {
		r, err := c.BatchUpdateEntry(ctx, &entryv1.BatchUpdateEntryRequest{Entries: es, InputMask: in, OutputMask: out})
		step("update "+n, r, err)
	}
	upd("none", nil, nil)
	upd("nil entry", nil, nil, nil)
	upd("no id", nil, nil, edit("", func(e *types.Entry) { e.Id = "" }))
	upd("unknown", nil, nil, good("nope"))
	upd("full", nil, nil, edit("e1", func(e *types.Entry) { e.Hint = "h"; e.DnsNames = []string{"a.com"}; e.X509SvidTtl = 5; e.Admin = true }))
	upd("full clears", nil, nil, edit("e1", func(e *types.Entry) {}))
	upd("unchanged", nil, nil, good("e1"))
	upd("empty masks", &types.EntryMask{}, &types.EntryMask{}, &types.Entry{Id: "e1"})
	upd("empty in mask", &types.EntryMask{}, nil, &types.Entry{Id: "e1"})
	upd("mask hint", &types.EntryMask{Hint: true}, nil, &types.Entry{Id: "e1", Hint: "new"})
	upd("mask spiffe nil", &types.EntryMask{SpiffeId: true}, nil, &types.Entry{Id: "e1"})
	upd("mask parent nil", &types.EntryMask{ParentId: true}, nil, &types.Entry{Id: "e1"})
	upd("mask selectors nil", &types.EntryMask{Selectors: true}, nil, &types.Entry{Id: "e1"})
	upd("mask hint bad spiffe ignored", &types.EntryMask{Hint: true}, nil, &types.Entry{Id: "e1", SpiffeId: fid("x", "y"), Hint: ""})
	upd("mask all others", &types.EntryMask{X509SvidTtl: true, JwtSvidTtl: true, FederatesWith: true, Admin: true, Downstream: true, ExpiresAt: true, DnsNames: true, StoreSvid: true, Hint: true, RevisionNumber: true, CreatedAt: true, AdditionalAttributes: true}, nil, &types.Entry{Id: "e1", X509SvidTtl: 7, JwtSvidTtl: 8, Admin: true, Downstream: true, ExpiresAt: 1999999999, DnsNames: []string{"q.com"}, RevisionNumber: 77, CreatedAt: 77, Hint: "x", AdditionalAttributes: &types.Entry_AdditionalAttributes{JwtSvidIncludeJti: true}})
	upd("mask store mixed", &types.EntryMask{StoreSvid: true}, nil, &types.Entry{Id: "e1", StoreSvid: true})
	upd("to similar of e2", &types.EntryMask{SpiffeId: true, Selectors: true}, nil, &types.Entry{Id: "e1", SpiffeId: id("/w/e2"), Selectors: sel("unix:uid:e2")})
	upd("back", nil, nil, good("e1"))
	upd("store then selectors", &types.EntryMask{StoreSvid: true}, nil, &types.Entry{Id: "b8", StoreSvid: true})
	upd("attrs nil mask", &types.EntryMask{AdditionalAttributes: true}, nil, &types.Entry{Id: "b18"})
	upd("store b19 + prefetch", nil, nil, edit("b19", func(e *types.Entry) {
		e.StoreSvid = true
		e.AdditionalAttributes = &types.Entry_AdditionalAttributes{DisableX509SvidPrefetch: true}
	}))
	for _, k := range sortedKeys(bad) {
		e := proto.Clone(bad[k]).(*types.Entry)
		e.Id = "e1"
		upd("bad "+k, nil, &types.EntryMask{Hint: true}, e)
	}
	upd("back", nil, nil, good("e1"))
	upd("mixed", nil, &types.EntryMask{}, good("e1"), good("nope"), good("e2"))
	del := func(n string, ids ...string) {
		r, err := c.BatchDeleteEntry(ctx, &entryv1.BatchDeleteEntryRequest{Ids: ids})
		step("delete "+n, r, err)
	}
	del("none")
	del("mixed", "e3", "", "nope", "e3", strings.Repeat("q", 400))
	var e1000 []string
	_ = e1000
	n, err := c.CountEntries(ctx, &entryv1.CountEntriesRequest{})
	step("count", n, err)
	// authorized ones locally
	a, err := c.GetAuthorizedEntries(ctx, &entryv1.GetAuthorizedEntriesRequest{})
	step("authorized local", a, err)
	s, err := c.SyncAuthorizedEntries(ctx)
	if err == nil {
		_, err = s.Recv()
	}
	step("sync local", &emptypb.Empty{}, err)
}

func filters(conn *grpc.ClientConn) {
	c := entryv1.NewEntryClient(conn)
	b := bundlev1.NewBundleClient(conn)
	for _, td := range []string{"f1.org", "f2.org", "f3.org"} {
		r, err := b.BatchSetFederatedBundle(ctx, &bundlev1.BatchSetFederatedBundleRequest{Bundle: []*types.Bundle{{TrustDomain: td}}})
		step("fed "+td, r, err)
	}
	mk := func(i string, f func(*types.Entry)) {
		e := edit(i, f)
		r, err := c.BatchCreateEntry(ctx, &entryv1.BatchCreateEntryRequest{Entries: []*types.Entry{e}, OutputMask: &types.EntryMask{FederatesWith: true}})
		step("mk "+i, r, err)
	}
	mk("q1", func(e *types.Entry) {
		e.ParentId = id("/p")
		e.Selectors = sel("a:1")
		e.FederatesWith = []string{"f1.org"}
		e.Hint = "hh"
	})
	mk("q2", func(e *types.Entry) {
		e.ParentId = id("/p")
		e.Selectors = sel("a:1", "a:2")
		e.FederatesWith = []string{"spiffe://f2.org", "f1.org"}
		e.Downstream = true
	})
	mk("q3", func(e *types.Entry) {
		e.ParentId = id("/p")
		e.Selectors = sel("a:2", "a:3")
		e.FederatesWith = []string{"f3.org", "f2.org", "f1.org"}
	})
	mk("q4", func(e *types.Entry) { e.ParentId = id("/p"); e.Selectors = sel("a:3"); e.Hint = "hh" })
	mk("q5 dupfed", func(e *types.Entry) {
		e.Id = "q5"
		e.ParentId = id("/p")
		e.SpiffeId = id("/w/q4")
		e.Selectors = sel("b:1")
		e.FederatesWith = []string{"f1.org", "f1.org"}
	})
	type F = entryv1.ListEntriesRequest_Filter
	sm := func(m int, s ...string) *types.SelectorMatch {
		return &types.SelectorMatch{Match: types.SelectorMatch_MatchBehavior(m), Selectors: sel(s...)}
	}
	fm := func(m int, s ...string) *types.FederatesWithMatch {
		return &types.FederatesWithMatch{Match: types.FederatesWithMatch_MatchBehavior(m), TrustDomains: s}
	}
	fs := map[string]*F{
		"nil": nil, "empty": {},
		"parent": {ByParentId: id("/p")}, "parent none": {ByParentId: id("/nope")},
		"parent bad": {ByParentId: id("x")}, "parent foreign": {ByParentId: fid("other.org", "/x")}, "parent emptypath": {ByParentId: id("")}, "parent empty": {ByParentId: &types.SPIFFEID{}},
		"spiffe": {BySpiffeId: id("/w/q1")}, "spiffe bad": {BySpiffeId: id("x")}, "spiffe foreign": {BySpiffeId: fid("other.org", "/x")}, "spiffe emptypath": {BySpiffeId: id("")}, "spiffe reserved": {BySpiffeId: id("/spire/agent/x")},
		"hint": {ByHint: wrapperspb.String("hh")}, "hint empty": {ByHint: wrapperspb.String("")},
		"downstream": {ByDownstream: wrapperspb.Bool(true)}, "not downstream": {ByParentId: id("/p"), ByDownstream: wrapperspb.Bool(false)},
		"both":       {ByParentId: id("/p"), BySpiffeId: id("/w/q4")},
		"both + sel": {ByParentId: id("/p"), BySpiffeId: id("/w/q4"), BySelectors: sm(0, "b:1")},
		"sel bad":    {BySelectors: &types.SelectorMatch{Selectors: []*types.Selector{{Type: "", Value: "x"}}}},
		"sel bad2":   {BySelectors: &types.SelectorMatch{Selectors: []*types.Selector{{Type: "a:b", Value: "x"}}}},
		"sel bad3":   {BySelectors: &types.SelectorMatch{Selectors: []*types.Selector{{Type: "a", Value: ""}}}},
	}
	for m := 0; m < 5; m++ {
		fs[fmt.Sprintf("sel %d none", m)] = &F{BySelectors: sm(m)}
		fs[fmt.Sprintf("sel %d a1", m)] = &F{BySelectors: sm(m, "a:1")}
		fs[fmt.Sprintf("sel %d a1 a2", m)] = &F{BySelectors: sm(m, "a:1", "a:2")}
		fs[fmt.Sprintf("sel %d a1 dup", m)] = &F{BySelectors: sm(m, "a:1", "a:1")}
		fs[fmt.Sprintf("sel %d a1 a2 a3", m)] = &F{BySelectors: sm(m, "a:1", "a:3", "a:2")}
		fs[fmt.Sprintf("fed %d none", m)] = &F{ByFederatesWith: fm(m)}
		fs[fmt.Sprintf("fed %d f1", m)] = &F{ByFederatesWith: fm(m, "f1.org")}
		fs[fmt.Sprintf("fed %d f1 f2", m)] = &F{ByFederatesWith: fm(m, "f1.org", "spiffe://f2.org")}
		fs[fmt.Sprintf("fed %d f1 dup", m)] = &F{ByFederatesWith: fm(m, "f1.org", "f1.org")}
		fs[fmt.Sprintf("fed %d f1 unknown", m)] = &F{ByFederatesWith: fm(m, "f1.org", "zz.org")}
		fs[fmt.Sprintf("fed %d bad", m)] = &F{ByFederatesWith: fm(m, "Bad TD")}
		fs[fmt.Sprintf("fed+sel %d", m)] = &F{ByFederatesWith: fm(m, "f1.org"), BySelectors: sm(m, "a:1", "a:2"), ByParentId: id("/p")}
	}
	for _, k := range sortedKeys(fs) {
		r, err := c.ListEntries(ctx, &entryv1.ListEntriesRequest{Filter: fs[k], OutputMask: &types.EntryMask{}})
		step("list "+k, r, err)
		var cf *entryv1.CountEntriesRequest_Filter
		if f := fs[k]; f != nil {
			cf = &entryv1.CountEntriesRequest_Filter{BySpiffeId: f.BySpiffeId, ByParentId: f.ByParentId, BySelectors: f.BySelectors, ByFederatesWith: f.ByFederatesWith, ByHint: f.ByHint, ByDownstream: f.ByDownstream}
		}
		n, err := c.CountEntries(ctx, &entryv1.CountEntriesRequest{Filter: cf})
		step("count "+k, n, err)
	}
	// paging
	for _, p := range []int32{0, -1, 1, 2, 3, 1000000} {
		tok := ""
		for i := 0; i < 8; i++ {
			r, err := c.ListEntries(ctx, &entryv1.ListEntriesRequest{Filter: fs["parent"], OutputMask: &types.EntryMask{}, PageSize: p, PageToken: tok})
			if r != nil {
				if r.NextPageToken != "" {
					tok = r.NextPageToken
					r.NextPageToken = "<tok>"
				} else {
					tok = ""
				}
			}
			step(fmt.Sprintf("page size %d #%d", p, i), r, err)
			if tok == "" {
				break
			}
		}
		tok = ""
		for i := 0; i < 8; i++ {
			r, err := c.ListEntries(ctx, &entryv1.ListEntriesRequest{Filter: fs["sel 3 a1 a2"], OutputMask: &types.EntryMask{}, PageSize: p, PageToken: tok})
			if r != nil {
				if r.NextPageToken != "" {
					tok = r.NextPageToken
					r.NextPageToken = "<tok>"
				} else {
					tok = ""
				}
			}
			step(fmt.Sprintf("page sel any size %d #%d", p, i), r, err)
			if tok == "" {
				break
			}
		}
	}
	for _, t := range []string{"x", "-1", "0", "999999", "99999999999999999999", "1.5", " 1", "4294967296"} {
		for _, p := range []int32{0, 2} {
			r, err := c.ListEntries(ctx, &entryv1.ListEntriesRequest{Filter: fs["parent"], OutputMask: &types.EntryMask{}, PageSize: p, PageToken: t})
			if r != nil && r.NextPageToken != "" {
				r.NextPageToken = "<tok>"
			}
			step(fmt.Sprintf("page token %q size %d", t, p), r, err)
		}
	}
	r, err := c.ListEntries(ctx, &entryv1.ListEntriesRequest{Filter: fs["parent"]})
	step("list full", r, err)
}
