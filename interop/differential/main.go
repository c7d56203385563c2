// Makes the same calls on any server of the SPIRE API and writes down each answer, and the log lines
// that came with it, with what differs from run to run taken out.

package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/url"
	"os"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
)

var (
	out       io.Writer
	logFile   *os.File
	logOff    int64
	ctx       = context.Background()
	uuids     = map[string]string{}
	uuidRe    = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	serRe     = regexp.MustCompile(`\b\d{25,50}\b`)
	hexRe     = regexp.MustCompile(`\b[0-9a-f]{40}\b`)
	tsRe      = regexp.MustCompile(`\b1[0-9]{9}\b`)
	rfcRe     = regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?\+0000 UTC|Z|\+00:00)`)
	portRe    = regexp.MustCompile(`127\.0\.0\.1:\d{5}`)
	kidRe     = regexp.MustCompile(`\b[A-Za-z0-9]{32}\b`)
	tokenRe   = regexp.MustCompile(`eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+`)
	jtiRe     = regexp.MustCompile(`"jti":"[A-Za-z0-9_-]{22}"`)
	sumRe     = regexp.MustCompile(`\b[0-9a-f]{64}\b`)
	pointerRe = regexp.MustCompile(`\b0x[0-9a-f]{9,12}\b`)
	now       = time.Now()
)

// coarse is a number of seconds, rounded by more than a run takes.
func coarse(d int64) int64 {
	step := int64(60)
	if d > 3000 || d < -3000 {
		step = 600
	}
	if d < 0 {
		return (d - step/2) / step * step
	}
	return (d + step/2) / step * step
}

func norm(s string) string {
	s = uuidRe.ReplaceAllStringFunc(s, func(u string) string {
		if n, ok := uuids[u]; ok {
			return n
		}
		uuids[u] = "<uuid>"
		return uuids[u]
	})
	s = rfcRe.ReplaceAllStringFunc(s, func(t string) string {
		return "<time>"
	})
	s = serRe.ReplaceAllString(s, "<serial>")
	s = hexRe.ReplaceAllString(s, "<skid>")
	s = tsRe.ReplaceAllStringFunc(s, func(t string) string {
		v, _ := strconv.ParseInt(t, 10, 64)
		if d := v - time.Now().Unix(); d > -400*86400 && d < 400*86400 {
			return fmt.Sprintf("<now%+d>", coarse(d))
		}
		return t
	})
	s = jtiRe.ReplaceAllString(s, `"jti":"<jti>"`)
	s = sumRe.ReplaceAllString(s, "<sha256>")
	s = pointerRe.ReplaceAllString(s, "<pointer>")
	s = portRe.ReplaceAllString(s, "127.0.0.1:<port>")
	s = kidRe.ReplaceAllString(s, "<kid>")
	return s
}

func descCert(c *x509.Certificate) string {
	var b strings.Builder
	rel := func(t time.Time) string {
		return fmt.Sprintf("%+ds", coarse(int64(time.Until(t).Seconds())))
	}
	fmt.Fprintf(&b, "CERT v%d subj=%s iss=%s nb=%s na=%s ca=%v/%d bcv=%v ku=%b eku=%v uris=%v dns=%v ip=%v mail=%v pk=%s sig=%s serialbits<=%v skid=%d akid=%d", c.Version, norm(c.Subject.String()), norm(c.Issuer.String()), rel(c.NotBefore), rel(c.NotAfter), c.IsCA, c.MaxPathLen, c.BasicConstraintsValid, c.KeyUsage, c.ExtKeyUsage, c.URIs, c.DNSNames, c.IPAddresses, c.EmailAddresses, descKey(c.PublicKey), c.SignatureAlgorithm, c.SerialNumber.BitLen() <= 128, len(c.SubjectKeyId), len(c.AuthorityKeyId))
	b.WriteString(" ext=")
	for _, e := range c.Extensions {
		fmt.Fprintf(&b, "%s(%v) ", e.Id, e.Critical)
	}
	return norm(b.String())
}

func descKey(k any) string {
	switch k := k.(type) {
	case *ecdsa.PublicKey:
		return "ec-" + k.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("rsa-%d", k.N.BitLen())
	}
	return fmt.Sprintf("%T", k)
}

func walk(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			v[k] = walk(x)
		}
		return v
	case []any:
		for i, x := range v {
			v[i] = walk(x)
		}
		return v
	case string:
		if tokenRe.MatchString(v) && strings.HasPrefix(v, "eyJ") {
			p := strings.Split(v, ".")
			h, _ := base64.RawURLEncoding.DecodeString(p[0])
			c, _ := base64.RawURLEncoding.DecodeString(p[1])
			sg, _ := base64.RawURLEncoding.DecodeString(p[2])
			return norm("JWT " + string(h) + " " + string(c) + fmt.Sprintf(" sig=%d", len(sg)))
		}
		if len(v) > 60 {
			if raw, err := base64.StdEncoding.DecodeString(v); err == nil {
				if cs, err := x509.ParseCertificates(raw); err == nil {
					var d []string
					for _, c := range cs {
						d = append(d, descCert(c))
					}
					return strings.Join(d, " | ")
				}
				if k, err := x509.ParsePKIXPublicKey(raw); err == nil {
					return "PK " + descKey(k)
				}
			}
		}
		return norm(v)
	}
	return v
}

func show(m proto.Message) string {
	if m == nil {
		return "nil"
	}
	raw, err := protojson.MarshalOptions{EmitUnpopulated: false}.Marshal(m)
	if err != nil {
		return err.Error()
	}
	var v any
	json.Unmarshal(raw, &v)
	v = walk(v)
	enc := new(bytes.Buffer)
	e := json.NewEncoder(enc)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	e.Encode(v)
	return strings.TrimSpace(enc.String())
}

var skipLog = regexp.MustCompile(`subsystem_name="?(cache_manager|telemetry|health|ca_manager|svid_rotator|sql|sqlite3)|SQL|Rebuilding|reloading|built-in_plugin|Initiali|authorized_entries|Querying|Serial number|cache`)
var fieldsRe = regexp.MustCompile(`(time|request_id|pid|elapsed|caller_pid|caller_path)=("[^"]*"|\S+) ?`)

func logs() {
	time.Sleep(8 * time.Millisecond)
	logFile.Seek(logOff, 0)
	raw, _ := io.ReadAll(logFile)
	cut := bytes.LastIndexByte(raw, '\n')
	if cut < 0 {
		return
	}
	logOff += int64(cut + 1)
	for _, l := range strings.Split(string(raw[:cut]), "\n") {
		if skipLog.MatchString(l) {
			continue
		}
		fmt.Fprintf(out, "   LOG %s\n", norm(fieldsRe.ReplaceAllString(l, "")))
	}
}

func showErr(err error) {
	st, ok := status.FromError(err)
	if !ok && err != nil {
		fmt.Fprintf(out, "   ERR %v\n", norm(err.Error()))
		return
	}
	if st.Code() != codes.OK {
		fmt.Fprintf(out, "   STATUS %s %q\n", st.Code(), norm(st.Message()))
		for _, d := range st.Proto().Details {
			fmt.Fprintf(out, "   DETAIL %s %s\n", d.TypeUrl, describeAny(d))
		}
	}
}

func describeAny(a *anypb.Any) string {
	m, err := a.UnmarshalNew()
	if err != nil {
		return base64.StdEncoding.EncodeToString(a.Value)
	}
	return norm(strings.Join(strings.Fields(prototext.Format(m)), " "))
}

func step[T proto.Message](name string, m T, err error) T {
	fmt.Fprintf(out, "## %q\n", name)
	if err != nil {
		showErr(err)
	} else {
		fmt.Fprintf(out, "   OK %s\n", show(m))
	}
	logs()
	return m
}

func note(name, s string) {
	fmt.Fprintf(out, "## %q\n   %s\n", name, norm(s))
	logs()
}

const TD = "example.org"

func id(path string) *types.SPIFFEID { return &types.SPIFFEID{TrustDomain: TD, Path: path} }
func fid(td, path string) *types.SPIFFEID {
	return &types.SPIFFEID{TrustDomain: td, Path: path}
}
func sel(s ...string) (r []*types.Selector) {
	for _, x := range s {
		t, v, _ := strings.Cut(x, ":")
		r = append(r, &types.Selector{Type: t, Value: v})
	}
	return
}

var keyP256 = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
var keyP384 = must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
var keyP521 = must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))
var keyP224 = must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
var keyRSA2048 = must(rsa.GenerateKey(rand.Reader, 2048))
var keyRSA1024 = must(rsa.GenerateKey(rand.Reader, 1024))
var keyRSA4096 = must(rsa.GenerateKey(rand.Reader, 4096))

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func csr(key crypto.Signer, subject pkix.Name, dns []string, uris ...string) []byte {
	t := x509.CertificateRequest{Subject: subject, DNSNames: dns}
	for _, u := range uris {
		p, err := url.Parse(u)
		if err != nil {
			panic(err)
		}
		t.URIs = append(t.URIs, p)
	}
	return must(x509.CreateCertificateRequest(rand.Reader, &t, key))
}

func plain(key crypto.Signer, uris ...string) []byte { return csr(key, pkix.Name{}, nil, uris...) }

func badSig(c []byte) []byte {
	b := bytes.Clone(c)
	b[len(b)-1] ^= 1
	return b
}

func dial(target string, certs ...tls.Certificate) *grpc.ClientConn {
	if strings.HasPrefix(target, "unix") {
		return must(grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20))))
	}
	cfg := &tls.Config{InsecureSkipVerify: true, Certificates: certs, NextProtos: []string{"h2"}}
	return must(grpc.NewClient(target, grpc.WithTransportCredentials(credentials.NewTLS(cfg)), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20))))
}

func attest(conn *grpc.ClientConn, msgs ...*agentv1.AttestAgentRequest) (*agentv1.AttestAgentResponse, error) {
	c, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	s, err := agentv1.NewAgentClient(conn).AttestAgent(c)
	if err != nil {
		return nil, err
	}
	for _, m := range msgs {
		if err := s.Send(m); err != nil {
			break
		}
	}
	if len(msgs) == 0 {
		s.CloseSend()
	}
	return s.Recv()
}

func attParams(kind string, payload, csr []byte) *agentv1.AttestAgentRequest {
	return &agentv1.AttestAgentRequest{Step: &agentv1.AttestAgentRequest_Params_{Params: &agentv1.AttestAgentRequest_Params{
		Data:   &types.AttestationData{Type: kind, Payload: payload},
		Params: &agentv1.AgentX509SVIDParams{Csr: csr},
	}}}
}

func tlsCert(svid *types.X509SVID, key crypto.PrivateKey) tls.Certificate {
	return tls.Certificate{Certificate: svid.CertChain, PrivateKey: key}
}

func selfSigned(uri ...string) tls.Certificate {
	t := &x509.Certificate{SerialNumber: big.NewInt(77), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, u := range uri {
		t.URIs = append(t.URIs, must(url.Parse(u)))
	}
	der := must(x509.CreateCertificate(rand.Reader, t, t, keyP256.Public(), keyP256))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: keyP256}
}

func sortedKeys[V any](m map[string]V) []string {
	var k []string
	for x := range m {
		k = append(k, x)
	}
	sort.Strings(k)
	return k
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "guard" {
		guard(os.Args[2:])
		return
	}
	// Arguments: the server's socket, its address, its log, and the file to write to.
	logFile = must(os.Open(os.Args[3]))
	logOff, _ = logFile.Seek(0, 2)
	out = must(os.Create(os.Args[4]))
	var cancel context.CancelFunc
	ctx, cancel = context.WithTimeout(ctx, 280*time.Second)
	defer cancel()
	local := dial("unix://" + os.Args[1])
	tcp := os.Args[2]
	entriesLocal(local)
	filters(local)
	bundles(local)
	tokens(local)
	agents(local, tcp)
	mint(local)
	misc(local)
	compressed(local)
	federation(local)
	remote(local, tcp)
	syncs(local, tcp)
	authorities(local)
}
