// Attests to servers with evidence good and bad, the same bytes to each, and tells what they say.
//
//	attest make <folder>            makes keys, certificates and the list of evidence
//	attest run <folder> <address>   shows each to a server; a line of JSON for each answer
//	attest flood <folder> <address> <case> <times>   shows one many times; tells how long it took
package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"golang.org/x/crypto/ssh"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// evidence is what an agent shows, and how it answers.
type evidence struct {
	Name    string
	Type    string
	Payload []byte
	// How a challenge is answered: "sign <key file> [algorithm]", "text <response>",
	// "replay <key file>" (the answer to another challenge), "params" (no answer at all).
	Answer string
}

type answer struct {
	Name    string `json:"name"`
	Code    string `json:"code"`
	Message string `json:"message"`
	ID      string `json:"id,omitempty"`
	// Whether a challenge came.
	Asked bool `json:"asked"`
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func try[T any](value T, err error) T {
	must(err)
	return value
}

func random(length int) []byte {
	bytes := make([]byte, length)
	rand.Read(bytes)
	return bytes
}

// respond answers a challenge as SPIRE's agents do.
func respond(kind, key, algorithm string, challenge []byte) []byte {
	block, _ := pem.Decode(try(os.ReadFile(key)))
	private := try(x509.ParsePKCS8PrivateKey(block.Bytes))
	ours := random(32)
	if kind == "sshpop" {
		var asked struct{ Nonce []byte }
		must(json.Unmarshal(challenge, &asked))
		sum := sha256.Sum256(append(asked.Nonce, ours...))
		signer := try(ssh.NewSignerFromKey(private)).(ssh.AlgorithmSigner)
		if algorithm == "" {
			algorithm = signer.PublicKey().Type()
		}
		signature := try(signer.SignWithAlgorithm(rand.Reader, sum[:], algorithm))
		return try(json.Marshal(map[string]any{"Nonce": ours, "Signature": signature}))
	}
	var asked map[string]struct {
		Nonce []byte `json:"nonce"`
	}
	must(json.Unmarshal(challenge, &asked))
	switch private := private.(type) {
	case *rsa.PrivateKey:
		sum := sha256.Sum256(append(asked["rsa_signature"].Nonce, ours...))
		var options *rsa.PSSOptions
		if algorithm != "" {
			options = &rsa.PSSOptions{SaltLength: try(strconv.Atoi(algorithm))}
		}
		signature := try(rsa.SignPSS(rand.Reader, private, crypto.SHA256, sum[:], options))
		return try(json.Marshal(map[string]any{"rsa_signature": map[string]any{"nonce": ours, "signature": signature}}))
	case *ecdsa.PrivateKey:
		sum := sha256.Sum256(append(asked["ecdsa_signature"].Nonce, ours...))
		r, s, err := ecdsa.Sign(rand.Reader, private, sum[:])
		must(err)
		return try(json.Marshal(map[string]any{
			"ecdsa_signature": map[string]any{"nonce": ours, "r": r.Bytes(), "s": s.Bytes()},
		}))
	}
	panic("no such key")
}

func show(conn *grpc.ClientConn, csr []byte, folder string, it evidence) answer {
	out := answer{Name: it.Name}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	failed := func(err error) answer {
		out.Code, out.Message = status.Code(err).String(), status.Convert(err).Message()
		return out
	}
	stream, err := agentv1.NewAgentClient(conn).AttestAgent(ctx)
	if err != nil {
		return failed(err)
	}
	params := &agentv1.AttestAgentRequest{Step: &agentv1.AttestAgentRequest_Params_{
		Params: &agentv1.AttestAgentRequest_Params{
			Data:   &types.AttestationData{Type: it.Type, Payload: it.Payload},
			Params: &agentv1.AgentX509SVIDParams{Csr: csr},
		},
	}}
	_ = stream.Send(params)
	for {
		message, err := stream.Recv()
		if err != nil {
			return failed(err)
		}
		if result := message.GetResult(); result != nil {
			out.Code, out.ID = "OK", result.Svid.Id.Path
			return out
		}
		out.Asked = true
		words := strings.SplitN(it.Answer, " ", 3)
		if words[0] == "params" {
			_ = stream.Send(params)
			continue
		}
		var response []byte
		switch words[0] {
		case "sign":
			algorithm := ""
			if len(words) == 3 {
				algorithm = words[2]
			}
			response = respond(it.Type, filepath.Join(folder, words[1]), algorithm, message.GetChallenge())
		case "replay":
			// The same challenge with another nonce.
			text := string(message.GetChallenge())
			at := strings.Index(text, "once\":\"") + len("once\":")
			end := strings.Index(text[at+1:], "\"") + at + 2
			other := text[:at] + string(try(json.Marshal(random(32)))) + text[end:]
			response = respond(it.Type, filepath.Join(folder, words[1]), "", []byte(other))
		default:
			response = []byte(strings.TrimPrefix(it.Answer, "text "))
		}
		_ = stream.Send(&agentv1.AttestAgentRequest{
			Step: &agentv1.AttestAgentRequest_ChallengeResponse{ChallengeResponse: response},
		})
	}
}

func main() {
	folder := os.Args[2]
	if os.Args[1] == "make" {
		makeAll(folder)
		return
	}
	var list []evidence
	must(json.Unmarshal(try(os.ReadFile(filepath.Join(folder, "evidence.json"))), &list))
	// Whether the server is the right one is not the question here.
	secure := credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})
	conn := try(grpc.NewClient("passthrough:///"+os.Args[3], grpc.WithTransportCredentials(secure)))
	defer conn.Close()
	key := try(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	csr := try(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key))
	if os.Args[1] == "flood" {
		for _, it := range list {
			if it.Name == os.Args[4] {
				started := time.Now()
				for range try(strconv.Atoi(os.Args[5])) {
					show(conn, csr, folder, it)
				}
				fmt.Println(time.Since(started).Seconds())
			}
		}
		return
	}
	for _, it := range list {
		must(json.NewEncoder(os.Stdout).Encode(show(conn, csr, folder, it)))
	}
}
