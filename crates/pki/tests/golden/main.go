// Writes the files in data/, against which crates/pki/tests/golden.rs compares what we encode and
// with which it feeds our parsers. Go's standard library and go-jose are what SPIRE encodes with.
//
// Run in this folder: go run . data
// Files and keys that are there are kept, so that new cases leave the others as they are.
package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func write(name string, data []byte) {
	if _, err := os.Stat(filepath.Join(os.Args[1], name)); err == nil {
		return
	}
	if err := os.WriteFile(filepath.Join(os.Args[1], name), data, 0o644); err != nil {
		panic(err)
	}
}

func kept[T any](name string, fresh T) T {
	data, err := os.ReadFile(filepath.Join(os.Args[1], name))
	if err != nil {
		return fresh
	}
	return must(x509.ParsePKCS8PrivateKey(data)).(T)
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func keyID(key crypto.PublicKey) []byte {
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Bits      asn1.BitString
	}
	must(asn1.Unmarshal(must(x509.MarshalPKIXPublicKey(key)), &info))
	sum := sha1.Sum(info.Bits.Bytes)
	return sum[:]
}

func serial(text string) *big.Int {
	n, ok := new(big.Int).SetString(text, 10)
	if !ok {
		panic(text)
	}
	return n
}

func uri(text string) *url.URL { return must(url.Parse(text)) }

func main() {
	p256 := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	p521 := must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))
	rsaKey := must(rsa.GenerateKey(rand.Reader, 2048))
	edPublic, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}

	p256, p384, rsaKey = kept("p256.pk8", p256), kept("p384.pk8", p384), kept("rsa.pk8", rsaKey)
	write("p256.pk8", must(x509.MarshalPKCS8PrivateKey(p256)))
	write("p384.pk8", must(x509.MarshalPKCS8PrivateKey(p384)))
	write("rsa.pk8", must(x509.MarshalPKCS8PrivateKey(rsaKey)))
	write("p256.sec1.pem", block("EC PRIVATE KEY", must(x509.MarshalECPrivateKey(p256))))
	write("rsa.pkcs1.pem", block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey)))
	write("p521.spki", must(x509.MarshalPKIXPublicKey(p521.Public())))
	write("ed25519.spki", must(x509.MarshalPKIXPublicKey(edPublic)))

	ca := certificates(p256, p384, rsaKey)
	requests(p256, p384, rsaKey)
	bundles(ca, p256, p384, p521, rsaKey, edPublic)
	tokens(p256, p384, p521, rsaKey)
}

func certificates(p256, p384 *ecdsa.PrivateKey, rsaKey *rsa.PrivateKey) *x509.Certificate {
	start := time.Date(2026, 1, 2, 3, 4, 5, 999, time.UTC)
	caTemplate := &x509.Certificate{
		SerialNumber: serial("340282366920938463463374607431768211455"),
		Subject: pkix.Name{
			Country: []string{"US"}, Organization: []string{"SPIFFE"},
			SerialNumber: "340282366920938463463374607431768211455",
		},
		NotBefore: start, NotAfter: start.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:     true, BasicConstraintsValid: true,
		SubjectKeyId: keyID(rsaKey.Public()),
		URIs:         []*url.URL{uri("spiffe://example.org")},
	}
	der := must(x509.CreateCertificate(rand.Reader, caTemplate, caTemplate, rsaKey.Public(), rsaKey))
	write("ca-rsa.crt", der)
	ca := must(x509.ParseCertificate(der))

	leafTemplate := &x509.Certificate{
		SerialNumber: serial("1"),
		Subject: pkix.Name{
			Country: []string{"US"}, Organization: []string{"SPIRE"}, CommonName: "a.example.org",
			ExtraNames: []pkix.AttributeTypeAndValue{{
				Type: asn1.ObjectIdentifier{2, 5, 4, 45}, Value: "0123456789abcdef0123456789abcdef",
			}},
		},
		NotBefore: start, NotAfter: start.Add(time.Hour),
		KeyUsage: x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement |
			x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{
			x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth,
		},
		BasicConstraintsValid: true,
		SubjectKeyId:          keyID(p256.Public()),
		AuthorityKeyId:        ca.SubjectKeyId,
		URIs:                  []*url.URL{uri("spiffe://example.org/web")},
		DNSNames:              []string{"a.example.org", "b.example.org"},
	}
	write("leaf.crt", must(x509.CreateCertificate(rand.Reader, leafTemplate, ca, p256.Public(), rsaKey)))

	// Everything about names that is not plain: order, sets, character kinds; and far times.
	downstreamTemplate := &x509.Certificate{
		SerialNumber: serial("255"),
		Subject: pkix.Name{
			Country: []string{"US", "DE"}, Organization: []string{"Müller & Söhne", "a*b"},
			OrganizationalUnit: []string{"DOWNSTREAM-1", "B"}, Locality: []string{"Köln"},
			Province: []string{"NRW"}, StreetAddress: []string{"1 Main St."},
			PostalCode: []string{"50667"}, CommonName: "cn", SerialNumber: "7",
		},
		NotBefore: start, NotAfter: time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:     true, BasicConstraintsValid: true,
		SubjectKeyId:   keyID(p384.Public()),
		AuthorityKeyId: ca.SubjectKeyId,
		URIs:           []*url.URL{uri("spiffe://example.org")},
	}
	write("downstream.crt",
		must(x509.CreateCertificate(rand.Reader, downstreamTemplate, ca, p384.Public(), rsaKey)))

	bareTemplate := &x509.Certificate{
		SerialNumber: serial("128"), NotBefore: start, NotAfter: start.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		SubjectKeyId: keyID(p384.Public()), AuthorityKeyId: ca.SubjectKeyId,
		URIs: []*url.URL{uri("spiffe://example.org/bare")},
	}
	write("bare.crt",
		must(x509.CreateCertificate(rand.Reader, bareTemplate, ca, p384.Public(), rsaKey)))
	composed(ca, p256, p384, rsaKey)
	return ca
}

// What a credential composer may add.
func composed(ca *x509.Certificate, p256, p384 *ecdsa.PrivateKey, rsaKey *rsa.PrivateKey) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 999, time.UTC)
	extensions := []pkix.Extension{
		{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, Value: []byte{4, 2, 1, 2}},
		{Id: asn1.ObjectIdentifier{2, 5, 29, 30}, Critical: true, Value: []byte{0x30, 0}},
	}
	// Extra names, of which one stands for a usual one, and one is not printable.
	subject := pkix.Name{
		Country: []string{"US"}, Organization: []string{"SPIRE"}, CommonName: "not this",
		SerialNumber: "7",
		ExtraNames: []pkix.AttributeTypeAndValue{
			{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "a*b"},
			{Type: asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}, Value: "exämple"},
			{Type: asn1.ObjectIdentifier{2, 5, 4, 45}, Value: ""},
		},
	}
	policies := []x509.OID{
		must(x509.ParseOID("1.3.6.1.4.1.99999.2")), must(x509.ParseOID("2.23.140.1.2.1")),
		must(x509.ParseOID("2.25.329800735698586629295641978511506172918")),
	}
	template := func(number string, key crypto.PublicKey) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: serial(number), Subject: subject,
			NotBefore: start, NotAfter: start.Add(time.Hour),
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
			IsCA:     true, BasicConstraintsValid: true,
			SubjectKeyId: keyID(key), AuthorityKeyId: ca.SubjectKeyId,
			URIs:     []*url.URL{uri("spiffe://example.org")},
			DNSNames: []string{"a.example.org"},
			Policies: policies, ExtraExtensions: extensions,
		}
	}
	first := template("3", p384.Public())
	write("composed.crt", must(x509.CreateCertificate(rand.Reader, first, ca, p384.Public(), rsaKey)))
	// An extra extension takes the place of the policies.
	second := template("4", p256.Public())
	second.ExtraExtensions = []pkix.Extension{{
		Id: asn1.ObjectIdentifier{2, 5, 29, 32}, Value: []byte{0x30, 6, 0x30, 4, 6, 2, 0x2a, 3},
	}}
	write("own-policies.crt",
		must(x509.CreateCertificate(rand.Reader, second, ca, p256.Public(), rsaKey)))
	request := &x509.CertificateRequest{
		Subject: subject, URIs: first.URIs, ExtraExtensions: extensions,
	}
	write("composed.csr", must(x509.CreateCertificateRequest(rand.Reader, request, rsaKey)))
	request.URIs = nil
	write("extensions.csr", must(x509.CreateCertificateRequest(rand.Reader, request, rsaKey)))
}

func requests(p256, p384 *ecdsa.PrivateKey, rsaKey *rsa.PrivateKey) {
	template := &x509.CertificateRequest{
		Subject:  pkix.Name{Country: []string{"US"}, Organization: []string{"SPIRE"}},
		URIs:     []*url.URL{uri("spiffe://example.org/spire/agent/x")},
		DNSNames: []string{"a.example.org"},
	}
	write("p256.csr", must(x509.CreateCertificateRequest(rand.Reader, template, p256)))
	write("p384.csr", must(x509.CreateCertificateRequest(rand.Reader, template, p384)))
	write("rsa.csr", must(x509.CreateCertificateRequest(rand.Reader, template, rsaKey)))
	write("empty.csr",
		must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, p256)))
}

func bundles(
	ca *x509.Certificate, p256, p384, p521 *ecdsa.PrivateKey, rsaKey *rsa.PrivateKey,
	edPublic ed25519.PublicKey,
) {
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: ca.PublicKey, Certificates: []*x509.Certificate{ca}, Use: "x509-svid"},
		{Key: p256.Public(), KeyID: "a<b>&c", Use: "jwt-svid"},
		{Key: p384.Public(), KeyID: "two", Use: "jwt-svid"},
		{Key: p521.Public(), KeyID: "three", Use: "jwt-svid"},
		{Key: rsaKey.Public(), KeyID: "four", Use: "jwt-svid"},
		{Key: edPublic, KeyID: "five", Use: "wit-svid"},
	}}
	document := struct {
		jose.JSONWebKeySet
		Sequence    uint64 `json:"spiffe_sequence,omitempty"`
		RefreshHint int    `json:"spiffe_refresh_hint,omitempty"`
	}{set, 7, 300}
	write("bundle.json", must(json.MarshalIndent(document, "", "    ")))

	plain := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, key := range set.Keys[1:5] {
		key.Use = ""
		plain.Keys = append(plain.Keys, key)
	}
	write("jwks.json", must(json.MarshalIndent(plain, "", "    ")))
	plain.Keys = plain.Keys[:0]
	write("empty.json", must(json.MarshalIndent(plain, "", "    ")))
}

func tokens(p256, p384, p521 *ecdsa.PrivateKey, rsaKey *rsa.PrivateKey) {
	keys := map[jose.SignatureAlgorithm]any{
		jose.ES256: p256, jose.ES384: p384, jose.ES512: p521,
		jose.RS256: rsaKey, jose.RS384: rsaKey, jose.RS512: rsaKey,
		jose.PS256: rsaKey, jose.PS384: rsaKey, jose.PS512: rsaKey,
	}
	claims := map[string]any{
		"sub": "spiffe://example.org/web",
		"aud": []string{"db", "<&>"},
		"exp": jwt.NewNumericDate(time.Unix(1800000000, 0)),
		"iat": jwt.NewNumericDate(time.Unix(1799999700, 0)),
		"iss": "https://issuer",
		"cnf": map[string]any{"z": 1, "a": nil},
	}
	for alg, key := range keys {
		signer := must(jose.NewSigner(jose.SigningKey{
			Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: string(alg)},
		}, new(jose.SignerOptions).WithType("JWT")))
		write(string(alg)+".jwt", []byte(must(jwt.Signed(signer).Claims(claims).Serialize())))
		public := key.(crypto.Signer).Public()
		write(string(alg)+".spki", must(x509.MarshalPKIXPublicKey(public)))
	}
}
