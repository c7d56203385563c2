// Looks into a cache as autocert does, and writes to it as autocert does.
//
// Usage: autocert CACHE DOMAIN DIRECTORY prints the cached certificate (DER), without asking
// anybody; with "write:" before the domain it puts a new self-signed one there first.
package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log"
	"math/big"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

func main() {
	cache := autocert.DirCache(os.Args[1])
	domain, write := strings.CutPrefix(os.Args[2], "write:")
	if write {
		put(cache, domain)
	}
	manager := autocert.Manager{
		Cache:  cache,
		Prompt: func(string) bool { log.Fatal("it went to the authority"); return false },
		Client: &acme.Client{DirectoryURL: os.Args[3]},
	}
	certificate, err := manager.GetCertificate(&tls.ClientHelloInfo{
		ServerName:       domain,
		SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
		SupportedCurves:  []tls.CurveID{tls.CurveP256},
		CipherSuites:     []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
	})
	if err != nil {
		log.Fatal(err)
	}
	os.Stdout.Write(certificate.Certificate[0])
}

func put(cache autocert.Cache, domain string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Minute),
		NotAfter:     time.Now().Add(24 * time.Hour),
		DNSNames:     []string{domain},
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(err)
	der, err := x509.MarshalECPrivateKey(key)
	check(err)
	var text bytes.Buffer
	check(pem.Encode(&text, &pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	check(pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: certificate}))
	check(cache.Put(context.Background(), domain, text.Bytes()))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
