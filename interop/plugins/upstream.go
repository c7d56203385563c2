package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"sync"
	"time"

	"github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/types"
	upstreams "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/server/upstreamauthority/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// upstream signs CAs with a root of its own, which ends with the process.
type upstream struct {
	upstreams.UnsafeUpstreamAuthorityServer
	common
	once sync.Once
	key  *ecdsa.PrivateKey
	root *x509.Certificate
	jwt  []*types.JWTKey
}

func authority(name string, trustDomain string) (*ecdsa.PrivateKey, *x509.Certificate) {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"Go test plugin"}, CommonName: name},
		NotBefore:             time.Now().Add(-time.Minute),
		NotAfter:              time.Now().Add(48 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: trustDomain}},
	}
	der, _ := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	certificate, _ := x509.ParseCertificate(der)
	return key, certificate
}

func (u *upstream) roots() []*types.X509Certificate {
	u.once.Do(func() { u.key, u.root = authority("root", u.trustDomain) })
	return []*types.X509Certificate{{Asn1: u.root.Raw}}
}

func (u *upstream) MintX509CAAndSubscribe(request *upstreams.MintX509CARequest, stream upstreams.UpstreamAuthority_MintX509CAAndSubscribeServer) error {
	ctx := stream.Context()
	if err := u.misbehave(ctx); err != nil {
		return err
	}
	roots := u.roots()
	csr, err := x509.ParseCertificateRequest(request.Csr)
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "unable to parse CSR: %v", err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	ttl := time.Duration(request.PreferredTtl) * time.Second
	if ttl == 0 {
		ttl = time.Hour
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               csr.Subject,
		URIs:                  csr.URIs,
		NotBefore:             time.Now().Add(-time.Minute),
		NotAfter:              time.Now().Add(ttl),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, u.root, csr.PublicKey, u.key)
	if err != nil {
		return status.Errorf(codes.Internal, "unable to sign: %v", err)
	}
	chain := []*types.X509Certificate{{Asn1: der}}
	switch u.now().Mode {
	case "no chain":
		chain = nil
	case "no roots":
		roots = nil
	case "no sense":
		chain[0].Asn1 = []byte("no sense")
	case "close":
		return nil
	}
	u.write("mint %v", csr.URIs)
	u.count(ctx, "mint")
	if err := stream.Send(&upstreams.MintX509CAResponse{X509CaChain: chain, UpstreamX509Roots: roots}); err != nil {
		return err
	}
	if u.now().Mode == "grow" {
		_, second := authority("second root", u.trustDomain)
		wait(ctx, 2*time.Second)
		more := append(u.roots(), &types.X509Certificate{Asn1: second.Raw})
		if err := stream.Send(&upstreams.MintX509CAResponse{UpstreamX509Roots: more}); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return nil
}

func (u *upstream) PublishJWTKeyAndSubscribe(request *upstreams.PublishJWTKeyRequest, stream upstreams.UpstreamAuthority_PublishJWTKeyAndSubscribeServer) error {
	u.mutex.Lock()
	u.jwt = append(u.jwt, request.JwtKey)
	keys := u.jwt
	u.mutex.Unlock()
	u.write("publish %s", request.JwtKey.KeyId)
	if err := stream.Send(&upstreams.PublishJWTKeyResponse{UpstreamJwtKeys: keys}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

func (u *upstream) SubscribeToLocalBundle(request *upstreams.SubscribeToLocalBundleRequest, stream upstreams.UpstreamAuthority_SubscribeToLocalBundleServer) error {
	u.mutex.Lock()
	keys := u.jwt
	u.mutex.Unlock()
	err := stream.Send(&upstreams.SubscribeToLocalBundleResponse{UpstreamX509Roots: u.roots(), UpstreamJwtKeys: keys})
	if err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

