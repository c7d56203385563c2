package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/crypto/ssh"
)

// Serial numbers that differ, so that no two certificates are one.
var serial int64 = 0x1000

type ca struct {
	cert *x509.Certificate
	key  crypto.Signer
}

type maker struct {
	folder string
	list   []evidence
}

func (m *maker) file(name string, blocks ...*pem.Block) {
	var text []byte
	for _, block := range blocks {
		text = append(text, pem.EncodeToMemory(block)...)
	}
	must(os.WriteFile(filepath.Join(m.folder, name), text, 0o600))
}

func (m *maker) key(name string, key crypto.Signer) crypto.Signer {
	der := try(x509.MarshalPKCS8PrivateKey(key))
	m.file(name, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return key
}

func p256() crypto.Signer { return try(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) }

func name(cn string) pkix.Name { return pkix.Name{CommonName: cn} }

func template(cn string, change ...func(*x509.Certificate)) *x509.Certificate {
	serial++
	it := &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      name(cn),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
	for _, change := range change {
		change(it)
	}
	return it
}

func isCA(it *x509.Certificate) {
	it.IsCA, it.BasicConstraintsValid = true, true
	it.KeyUsage = x509.KeyUsageCertSign
}

// issue makes a certificate for any public key, also one whose private half nobody has.
func issue(of *x509.Certificate, public crypto.PublicKey, by *ca) *x509.Certificate {
	return try(x509.ParseCertificate(try(x509.CreateCertificate(rand.Reader, of, by.cert, public, by.key))))
}

func root(cn string) *ca {
	key := p256()
	it := template(cn, isCA)
	return &ca{try(x509.ParseCertificate(try(x509.CreateCertificate(rand.Reader, it, it, key.Public(), key)))), key}
}

func under(by *ca, cn string, change ...func(*x509.Certificate)) *ca {
	key := p256()
	it := template(cn, append([]func(*x509.Certificate){isCA}, change...)...)
	return &ca{issue(it, key.Public(), by), key}
}

func (m *maker) x509pop(name, answer string, chain ...*x509.Certificate) {
	var list [][]byte
	for _, it := range chain {
		list = append(list, it.Raw)
	}
	payload := try(json.Marshal(map[string]any{"certificates": list}))
	m.list = append(m.list, evidence{name, "x509pop", payload, answer})
}

func (m *maker) raw(kind, name, payload, answer string) {
	m.list = append(m.list, evidence{name, kind, []byte(payload), answer})
}

func huge(bits int) *rsa.PublicKey {
	n := new(big.Int).SetBytes(random(bits / 8))
	n.SetBit(n, bits-1, 1).SetBit(n, 0, 1)
	return &rsa.PublicKey{N: n, E: 65537}
}

func makeAll(folder string) {
	must(os.MkdirAll(folder, 0o700))
	m := &maker{folder: folder}
	m.makeX509()
	m.makeSSH()
	must(os.WriteFile(filepath.Join(folder, "evidence.json"), try(json.Marshal(m.list)), 0o600))
}

func (m *maker) makeX509() {
	trusted, twin, other := root("root"), root("twin"), root("other")
	impostor := root("root")
	rsaKey := m.key("rsa.key", try(rsa.GenerateKey(rand.Reader, 2048)))
	rsaRoot := &ca{}
	{
		it := template("rsa root", isCA)
		it.SignatureAlgorithm = x509.SHA256WithRSAPSS
		rsaRoot.key = try(rsa.GenerateKey(rand.Reader, 2048))
		rsaRoot.cert = try(x509.ParseCertificate(try(x509.CreateCertificate(rand.Reader, it, it, rsaRoot.key.Public(), rsaRoot.key))))
	}
	ecKey, otherKey := m.key("ec.key", p256()), m.key("other.key", p256())
	p384 := m.key("p384.key", try(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)))
	p521 := m.key("p521.key", try(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)))
	small := m.key("small.key", try(rsa.GenerateKey(rand.Reader, 1024)))
	_, edKey, _ := ed25519.GenerateKey(rand.Reader)
	m.key("ed.key", edKey)
	self := template("self", func(it *x509.Certificate) { it.IsCA, it.BasicConstraintsValid = true, true })
	selfSigned := try(x509.ParseCertificate(try(x509.CreateCertificate(rand.Reader, self, self, ecKey.Public(), ecKey))))
	pemOf := func(it *x509.Certificate) *pem.Block { return &pem.Block{Type: "CERTIFICATE", Bytes: it.Raw} }
	m.file("roots.pem", pemOf(trusted.cert), pemOf(twin.cert), pemOf(rsaRoot.cert), pemOf(selfSigned))

	ec := ecKey.Public()
	leaf := func(by *ca, change ...func(*x509.Certificate)) *x509.Certificate {
		return issue(template("COMMONNAME", change...), ec, by)
	}
	uris := func(list ...string) func(*x509.Certificate) {
		return func(it *x509.Certificate) {
			for _, text := range list {
				it.URIs = append(it.URIs, try(url.Parse(text)))
			}
		}
	}
	middle := under(trusted, "middle")
	plain := leaf(middle)
	const sign = "sign ec.key"

	m.x509pop("ec", sign, leaf(trusted))
	m.x509pop("ec over an intermediate", sign, plain, middle.cert)
	m.x509pop("ec over an intermediate, twice", sign, plain, middle.cert, middle.cert)
	m.x509pop("ec with too much", sign, plain, other.cert, middle.cert, trusted.cert)
	m.x509pop("rsa", "sign rsa.key", issue(template("rsa"), rsaKey.Public(), trusted))
	m.x509pop("rsa, salt 32", "sign rsa.key 32", issue(template("rsa"), rsaKey.Public(), trusted))
	m.x509pop("rsa, salt 20", "sign rsa.key 20", issue(template("rsa"), rsaKey.Public(), trusted))
	m.x509pop("rsa by PSS", "sign rsa.key", issue(template("rsa", func(it *x509.Certificate) {
		it.SignatureAlgorithm = x509.SHA384WithRSAPSS
	}), rsaKey.Public(), rsaRoot))
	m.x509pop("p384", "sign p384.key", issue(template("p384"), p384.Public(), trusted))
	m.x509pop("p521", "sign p521.key", issue(template("p521"), p521.Public(), trusted))
	m.x509pop("the root itself", sign, selfSigned)
	m.x509pop("no common name", sign, leaf(trusted, func(it *x509.Certificate) { it.Subject = pkix.Name{} }))
	m.x509pop("selectors", sign, leaf(trusted, uris(
		"x509pop://example.org/datacenter/us-east-1", "x509pop://example.org/key/path/to/value",
		"x509pop://example.org/datacenter/last", "x509pop://example.org/lonely",
		"x509pop://example.org/a%20b/c%2Fd?query#fragment", "x509pop://other.org/a/b", "x509pop://example.org//x//y/",
	)))
	// Two ways up: the intermediate's key is certified by both roots.
	cross := &ca{issue(template("middle", isCA), middle.key.Public(), twin), middle.key}
	m.x509pop("two paths", sign, plain, middle.cert, cross.cert)

	m.raw("x509pop", "no json", "payload", "")
	m.raw("x509pop", "cut json", `{"certificates":["`, "")
	m.raw("x509pop", "empty object", "{}", "")
	m.raw("x509pop", "null", "null", "")
	m.raw("x509pop", "a list", "[]", "")
	m.raw("x509pop", "no certificates", `{"certificates":[]}`, "")
	m.raw("x509pop", "certificates are text", `{"certificates":"AA=="}`, "")
	m.raw("x509pop", "a certificate is a number", `{"certificates":[1]}`, "")
	m.raw("x509pop", "bad base64", `{"certificates":["!"]}`, "")
	m.raw("x509pop", "broken leaf", `{"certificates":["AA=="]}`, "")
	m.raw("x509pop", "names in capitals", fmt.Sprintf(`{"CERTIFICATES":["%s"]}`, base64.StdEncoding.EncodeToString(leaf(trusted).Raw)), sign)
	broken := *middle.cert
	broken.Raw = []byte{0}
	m.x509pop("broken intermediate", sign, plain, &broken)
	trailing := *plain
	trailing.Raw = append(append([]byte{}, plain.Raw...), 0)
	m.x509pop("trailing bytes", sign, &trailing, middle.cert)
	cut := *plain
	cut.Raw = plain.Raw[:len(plain.Raw)-1]
	m.x509pop("cut leaf", sign, &cut, middle.cert)
	forged := *plain
	forged.Raw = append([]byte{}, plain.Raw...)
	forged.Raw[len(forged.Raw)-1] ^= 1
	m.x509pop("forged leaf", sign, &forged, middle.cert)
	m.x509pop("too many intermediates", sign, plain, middle.cert, middle.cert, middle.cert, middle.cert, middle.cert)
	m.x509pop("incomplete chain", sign, plain)
	m.x509pop("another CA", sign, leaf(other), other.cert)
	m.x509pop("another CA of the same name", sign, leaf(impostor), impostor.cert)
	m.x509pop("expired", sign, leaf(trusted, func(it *x509.Certificate) { it.NotAfter = time.Now().Add(-time.Minute) }))
	m.x509pop("not yet valid", sign, leaf(trusted, func(it *x509.Certificate) { it.NotBefore = time.Now().Add(time.Hour) }))
	old := under(trusted, "old", func(it *x509.Certificate) { it.NotAfter = time.Now().Add(-time.Minute) })
	m.x509pop("expired intermediate", sign, leaf(old), old.cert)
	fake := under(trusted, "fake", func(it *x509.Certificate) { it.IsCA = false })
	m.x509pop("intermediate that is no CA", sign, leaf(fake), fake.cert)
	mute := under(trusted, "mute", func(it *x509.Certificate) { it.KeyUsage = x509.KeyUsageCRLSign })
	m.x509pop("intermediate that may not sign", sign, leaf(mute), mute.cert)
	short := under(trusted, "short", func(it *x509.Certificate) { it.MaxPathLenZero = true })
	deep := under(short, "deep")
	m.x509pop("path length", sign, leaf(deep), deep.cert, short.cert)
	m.x509pop("critical extension", sign, leaf(trusted, func(it *x509.Certificate) {
		it.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999}, Critical: true, Value: []byte{5, 0}}}
	}))
	bound := under(trusted, "bound", func(it *x509.Certificate) {
		it.PermittedDNSDomainsCritical, it.PermittedDNSDomains = true, []string{"example.org"}
	})
	dns := func(name string) func(*x509.Certificate) {
		return func(it *x509.Certificate) { it.DNSNames = []string{name} }
	}
	m.x509pop("permitted name", sign, leaf(bound, dns("a.example.org")), bound.cert)
	m.x509pop("other name", sign, leaf(bound, dns("example.com")), bound.cert)
	m.x509pop("no digital signature", sign, leaf(trusted, func(it *x509.Certificate) { it.KeyUsage = x509.KeyUsageKeyEncipherment }))
	m.x509pop("no key usage", sign, leaf(trusted, func(it *x509.Certificate) { it.KeyUsage = 0 }))
	m.x509pop("ed25519", "sign ed.key", issue(template("ed"), edKey.Public(), trusted))
	m.x509pop("rsa 1024", "sign small.key", issue(template("small"), small.Public(), trusted))
	for _, bits := range []int{8200, 9216, 16384, 65536} {
		m.x509pop(fmt.Sprintf("rsa %d", bits), "text x", issue(template("huge"), huge(bits), trusted))
		m.x509pop(fmt.Sprintf("intermediate of rsa %d", bits), "text x", plain, issue(template("middle", isCA), huge(bits), other))
	}
	// The worst that may be brought: intermediates of one name with large keys, each of which might
	// have signed each other and the leaf.
	thicket := []*x509.Certificate{}
	for range 4 {
		thicket = append(thicket, issue(template("root", isCA), huge(8192), impostor))
	}
	m.x509pop("a thicket of large keys", "text x", append([]*x509.Certificate{leaf(impostor)}, thicket...)...)

	m.x509pop("no response", "text ", plain, middle.cert)
	m.x509pop("empty response", "text {}", plain, middle.cert)
	m.x509pop("response of another kind", `text {"rsa_signature":{"nonce":"AA==","signature":"AA=="}}`, plain, middle.cert)
	m.x509pop("short nonce", `text {"ecdsa_signature":{"nonce":"AA==","r":"AQ==","s":"AQ=="}}`, plain, middle.cert)
	zeros := base64.StdEncoding.EncodeToString(make([]byte, 32))
	m.x509pop("zero signature", `text {"ecdsa_signature":{"nonce":"`+zeros+`","r":"","s":""}}`, plain, middle.cert)
	m.x509pop("wrong key", "sign other.key", plain, middle.cert)
	m.x509pop("replayed", "replay ec.key", plain, middle.cert)
	m.x509pop("params again", "params", plain, middle.cert)
	rsaLeaf := issue(template("rsa"), rsaKey.Public(), trusted)
	m.x509pop("short rsa signature", `text {"rsa_signature":{"nonce":"`+zeros+`","signature":"AA=="}}`, rsaLeaf)
	m.x509pop("replayed rsa", "replay rsa.key", rsaLeaf)
	address := leaf(trusted, func(it *x509.Certificate) { it.IPAddresses = []net.IP{net.ParseIP("127.0.0.1")} })
	m.x509pop("with its address", sign, address)
	_ = otherKey
}

func (m *maker) makeSSH() {
	_, caKey, _ := ed25519.GenerateKey(rand.Reader)
	authority := try(ssh.NewSignerFromKey(caKey))
	rsaAuthority := try(ssh.NewSignerFromKey(try(rsa.GenerateKey(rand.Reader, 2048))))
	must(os.WriteFile(filepath.Join(m.folder, "ssh_ca.pub"), append(
		ssh.MarshalAuthorizedKey(authority.PublicKey()), ssh.MarshalAuthorizedKey(rsaAuthority.PublicKey())...), 0o600))
	other := try(ssh.NewSignerFromKey(p256()))

	certify := func(key string, by ssh.Signer, change ...func(*ssh.Certificate)) *ssh.Certificate {
		block, _ := pem.Decode(try(os.ReadFile(filepath.Join(m.folder, key))))
		private := try(x509.ParsePKCS8PrivateKey(block.Bytes)).(crypto.Signer)
		serial++
		it := &ssh.Certificate{
			Key: try(ssh.NewPublicKey(private.Public())), Serial: uint64(serial), CertType: ssh.HostCert, KeyId: "id",
			ValidPrincipals: []string{"host.example.org"}, ValidBefore: ssh.CertTimeInfinity,
		}
		for _, change := range change {
			change(it)
		}
		must(it.SignCert(rand.Reader, by))
		return it
	}
	show := func(name, answer string, blob []byte) {
		payload := try(json.Marshal(map[string]any{"Certificate": blob}))
		m.list = append(m.list, evidence{"ssh: " + name, "sshpop", payload, answer})
	}
	for _, it := range [][2]string{
		{"ed.key", ssh.KeyAlgoED25519}, {"ec.key", ssh.KeyAlgoECDSA256}, {"p384.key", ssh.KeyAlgoECDSA384},
		{"p521.key", ssh.KeyAlgoECDSA521}, {"rsa.key", ssh.KeyAlgoRSA}, {"rsa.key", ssh.KeyAlgoRSASHA256},
		{"rsa.key", ssh.KeyAlgoRSASHA512},
	} {
		show(it[1], "sign "+it[0]+" "+it[1], certify(it[0], authority).Marshal())
	}
	sha512 := try(ssh.NewSignerWithAlgorithms(rsaAuthority.(ssh.AlgorithmSigner), []string{ssh.KeyAlgoRSASHA512}))
	sha1 := try(ssh.NewSignerWithAlgorithms(rsaAuthority.(ssh.AlgorithmSigner), []string{ssh.KeyAlgoRSA}))
	const sign = "sign ed.key ssh-ed25519"
	show("rsa authority", sign, certify("ed.key", sha512).Marshal())
	show("rsa authority by sha1", sign, certify("ed.key", sha1).Marshal())
	good := certify("ed.key", authority).Marshal()

	m.raw("sshpop", "ssh: no json", "payload", "")
	m.raw("sshpop", "ssh: cut json", `{"Certificate":"`, "")
	m.raw("sshpop", "ssh: empty object", "{}", "")
	m.raw("sshpop", "ssh: bad base64", `{"Certificate":"!"}`, "")
	m.raw("sshpop", "ssh: a number", `{"Certificate":1}`, "")
	show("broken", sign, []byte{0})
	show("no such kind", sign, ssh.Marshal(struct{ Name, Rest string }{"ssh-none", "x"}))
	show("cut", sign, good[:len(good)-1])
	show("trailing", sign, append(append([]byte{}, good...), 0))
	forged := append([]byte{}, good...)
	forged[len(forged)-1] ^= 1
	show("forged", sign, forged)
	show("bare key", sign, authority.PublicKey().Marshal())
	show("user", sign, certify("ed.key", authority, func(it *ssh.Certificate) { it.CertType = ssh.UserCert }).Marshal())
	show("another authority", sign, certify("ed.key", other).Marshal())
	show("expired", sign, certify("ed.key", authority, func(it *ssh.Certificate) { it.ValidBefore = 1 }).Marshal())
	show("not yet valid", sign, certify("ed.key", authority, func(it *ssh.Certificate) {
		it.ValidAfter = uint64(time.Now().Add(time.Hour).Unix())
	}).Marshal())
	show("times of 64 bits", sign, certify("ed.key", authority, func(it *ssh.Certificate) { it.ValidAfter = 1 << 63 }).Marshal())
	show("no principals", sign, certify("ed.key", authority, func(it *ssh.Certificate) { it.ValidPrincipals = nil }).Marshal())
	show("principal with a port", sign, certify("ed.key", authority, func(it *ssh.Certificate) {
		it.ValidPrincipals = []string{"host:22"}
	}).Marshal())
	show("critical option", sign, certify("ed.key", authority, func(it *ssh.Certificate) {
		it.CriticalOptions = map[string]string{"strange": "x"}
	}).Marshal())
	show("source address", sign, certify("ed.key", authority, func(it *ssh.Certificate) {
		it.CriticalOptions = map[string]string{"source-address": "10.0.0.0/8"}
	}).Marshal())
	show("no response", "text ", good)
	show("empty response", "text {}", good)
	zeros := base64.StdEncoding.EncodeToString(make([]byte, 32))
	show("no such signature", `text {"Nonce":"`+zeros+`","Signature":{"Format":"x","Blob":"AA==","Rest":null}}`, good)
	show("empty signature", `text {"Nonce":"`+zeros+`","Signature":{"Format":"ssh-ed25519","Blob":"","Rest":null}}`, good)
	show("wrong key", "sign ec.key ecdsa-sha2-nistp256", good)
	show("replayed", "replay ed.key", good)
	show("params again", "params", good)
}
