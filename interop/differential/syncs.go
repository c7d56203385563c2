// What agents may serve, in pages.

package main

import (
	"context"
	"fmt"
	"time"

	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

func syncs(local *grpc.ClientConn, tcp string) {
	a := agentv1.NewAgentClient(local)
	_, err := a.CreateJoinToken(ctx, &agentv1.CreateJoinTokenRequest{Ttl: 600, Token: "sy"})
	r, err := attest(dial(tcp), attParams("join_token", []byte("sy"), plain(keyP256)))
	if err != nil {
		panic(err)
	}
	conn := dial(tcp, tlsCert(r.GetResult().Svid, keyP256))
	e := entryv1.NewEntryClient(local)
	mk := func(from, to int) {
		rq := &entryv1.BatchCreateEntryRequest{OutputMask: &types.EntryMask{}}
		for i := from; i < to; i++ {
			n := fmt.Sprintf("sy%05d", i)
			rq.Entries = append(rq.Entries, edit(n, func(e *types.Entry) { e.ParentId = id("/spire/agent/join_token/sy") }))
		}
		if _, err := e.BatchCreateEntry(ctx, rq); err != nil {
			panic(err)
		}
		time.Sleep(5500 * time.Millisecond)
		logs2()
	}
	sy := func(n string, rqs ...*entryv1.SyncAuthorizedEntriesRequest) {
		c, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		s, err := entryv1.NewEntryClient(conn).SyncAuthorizedEntries(c)
		if err != nil {
			step("sync "+n, &emptypb.Empty{}, err)
			return
		}
		fmt.Fprintf(out, "## %q\n", "sync "+n)
		for _, rq := range rqs {
			if rq == nil {
				s.CloseSend()
			} else {
				s.Send(rq)
			}
			for {
				m, err := s.Recv()
				if err != nil {
					if err.Error() == "EOF" {
						fmt.Fprintf(out, "   EOF\n")
					} else {
						showErr(err)
					}
					logs()
					return
				}
				var ids []string
				for _, e := range m.EntryRevisions {
					ids = append(ids, e.Id)
				}
				for _, e := range m.Entries {
					ids = append(ids, e.Id)
				}
				fmt.Fprintf(out, "   revs=%d entries=%d more=%v\n", len(m.EntryRevisions), len(m.Entries), m.More)
				if len(ids) > 0 && len(ids) < 20 {
					fmt.Fprintf(out, "   ids %v\n", ids)
				} else if len(ids) > 0 {
					fmt.Fprintf(out, "   first %s last %s\n", ids[0], ids[len(ids)-1])
				}
				if len(m.Entries) > 0 {
					fmt.Fprintf(out, "   %s\n", show(m.Entries[0]))
				}
				if len(m.EntryRevisions) > 0 {
					x := m.EntryRevisions[0]
					fmt.Fprintf(out, "   %s\n", show(x))
				}
				if !m.More {
					break
				}
			}
		}
		logs()
	}
	S := func(m *types.EntryMask, ids ...string) *entryv1.SyncAuthorizedEntriesRequest {
		return &entryv1.SyncAuthorizedEntriesRequest{OutputMask: m, Ids: ids}
	}
	sy("none yet", S(nil))
	mk(0, 3)
	sy("small", S(nil))
	sy("small twice", S(nil), S(nil, "sy00001"))
	sy("closed", nil)
	sy("ids first", S(nil, "sy00001"))
	sy("empty mask", S(&types.EntryMask{}))
	sy("mask", S(&types.EntryMask{RevisionNumber: true, SpiffeId: true}))
	g, err := entryv1.NewEntryClient(conn).GetAuthorizedEntries(ctx, &entryv1.GetAuthorizedEntriesRequest{OutputMask: &types.EntryMask{}})
	step("authorized masked", g, err)
	g, err = entryv1.NewEntryClient(conn).GetAuthorizedEntries(ctx, &entryv1.GetAuthorizedEntriesRequest{})
	step("authorized full", g, err)
	mk(3, 1203)
	sy("big revs", S(nil), nil)
	sy("big few", S(nil), S(nil, "sy00100", "nope", "sy00001", "sy00100"), S(nil), S(nil, "nope"), nil)
	var all []string
	for i := 0; i < 1203; i++ {
		all = append(all, fmt.Sprintf("sy%05d", 1202-i))
	}
	sy("big all", S(&types.EntryMask{RevisionNumber: true, Hint: true}), S(nil, all...), nil)
	sy("big mask in 2nd", S(nil), S(&types.EntryMask{}, "sy00100"), nil)
}

func logs2() {
	time.Sleep(100 * time.Millisecond)
	logFile.Seek(0, 2)
	o, _ := logFile.Seek(0, 1)
	logOff = o
}
