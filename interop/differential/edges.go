// Local authorities, compression, metadata.

package main

import (
	"fmt"
	"strings"

	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	localv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/localauthority/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
)

func authorities(conn *grpc.ClientConn) {
	c := localv1.NewLocalAuthorityClient(conn)
	for _, id := range []string{"", "nope", strings.Repeat("a", 40)} {
		r1, err := c.ActivateX509Authority(ctx, &localv1.ActivateX509AuthorityRequest{AuthorityId: id})
		step("activate x509 "+id, r1, err)
		r2, err := c.TaintX509Authority(ctx, &localv1.TaintX509AuthorityRequest{AuthorityId: id})
		step("taint x509 "+id, r2, err)
		r3, err := c.RevokeX509Authority(ctx, &localv1.RevokeX509AuthorityRequest{AuthorityId: id})
		step("revoke x509 "+id, r3, err)
		r4, err := c.ActivateJWTAuthority(ctx, &localv1.ActivateJWTAuthorityRequest{AuthorityId: id})
		step("activate jwt "+id, r4, err)
		r5, err := c.TaintJWTAuthority(ctx, &localv1.TaintJWTAuthorityRequest{AuthorityId: id})
		step("taint jwt "+id, r5, err)
		r6, err := c.RevokeJWTAuthority(ctx, &localv1.RevokeJWTAuthorityRequest{AuthorityId: id})
		step("revoke jwt "+id, r6, err)
		r7, err := c.TaintX509UpstreamAuthority(ctx, &localv1.TaintX509UpstreamAuthorityRequest{SubjectKeyId: id})
		step("taint upstream "+id, r7, err)
		r8, err := c.RevokeX509UpstreamAuthority(ctx, &localv1.RevokeX509UpstreamAuthorityRequest{SubjectKeyId: id})
		step("revoke upstream "+id, r8, err)
	}
	// The whole of a forced rotation.
	x, err := c.PrepareX509Authority(ctx, &localv1.PrepareX509AuthorityRequest{})
	step("prepare x509", x, err)
	ax, err := c.ActivateX509Authority(ctx, &localv1.ActivateX509AuthorityRequest{AuthorityId: x.GetPreparedAuthority().GetAuthorityId()})
	step("activate prepared x509", ax, err)
	j, err := c.PrepareJWTAuthority(ctx, &localv1.PrepareJWTAuthorityRequest{})
	step("prepare jwt", j, err)
	aj, err := c.ActivateJWTAuthority(ctx, &localv1.ActivateJWTAuthorityRequest{AuthorityId: j.GetPreparedAuthority().GetAuthorityId()})
	step("activate prepared jwt", aj, err)
	xs, err := c.GetX509AuthorityState(ctx, &localv1.GetX509AuthorityStateRequest{})
	step("x509 state after", xs, err)
	rx, err := c.RevokeX509Authority(ctx, &localv1.RevokeX509AuthorityRequest{AuthorityId: xs.GetOld().GetAuthorityId()})
	step("revoke untainted x509", rx, err)
	tx, err := c.TaintX509Authority(ctx, &localv1.TaintX509AuthorityRequest{AuthorityId: xs.GetOld().GetAuthorityId()})
	step("taint old x509", tx, err)
	tx, err = c.TaintX509Authority(ctx, &localv1.TaintX509AuthorityRequest{AuthorityId: xs.GetOld().GetAuthorityId()})
	step("taint old x509 again", tx, err)
	rx, err = c.RevokeX509Authority(ctx, &localv1.RevokeX509AuthorityRequest{AuthorityId: xs.GetOld().GetAuthorityId()})
	step("revoke tainted x509", rx, err)
	js, err := c.GetJWTAuthorityState(ctx, &localv1.GetJWTAuthorityStateRequest{})
	step("jwt state after", js, err)
	tj, err := c.TaintJWTAuthority(ctx, &localv1.TaintJWTAuthorityRequest{AuthorityId: js.GetOld().GetAuthorityId()})
	step("taint old jwt", tj, err)
	rj, err := c.RevokeJWTAuthority(ctx, &localv1.RevokeJWTAuthorityRequest{AuthorityId: js.GetOld().GetAuthorityId()})
	step("revoke tainted jwt", rj, err)
	b, err := bundlev1.NewBundleClient(conn).GetBundle(ctx, &bundlev1.GetBundleRequest{OutputMask: &types.BundleMask{X509Authorities: true}})
	step("bundle after", b, err)
}

// compressed is what gRPC clients may send unasked, and what they had better not.
func compressed(conn *grpc.ClientConn) {
	c := entryv1.NewEntryClient(conn)
	n, err := c.CountEntries(ctx, &entryv1.CountEntriesRequest{Filter: &entryv1.CountEntriesRequest_Filter{ByParentId: id("/p")}}, grpc.UseCompressor(gzip.Name))
	step("gzip count", n, err)
	made, err := c.BatchCreateEntry(ctx, &entryv1.BatchCreateEntryRequest{Entries: []*types.Entry{good("gz")}, OutputMask: &types.EntryMask{SpiffeId: true}}, grpc.UseCompressor(gzip.Name))
	step("gzip create", made, err)
	_, err = c.GetEntry(ctx, &entryv1.GetEntryRequest{Id: strings.Repeat("a", 5<<20)}, grpc.UseCompressor(gzip.Name))
	note("gzip bomb", err.Error())
	for _, size := range []int{1000, 8000} {
		more := metadata.AppendToOutgoingContext(ctx, "x-more", strings.Repeat("m", size))
		n, err := c.CountEntries(more, &entryv1.CountEntriesRequest{Filter: &entryv1.CountEntriesRequest_Filter{ByParentId: id("/p")}})
		step(fmt.Sprintf("metadata %d", size), n, err)
	}
}
