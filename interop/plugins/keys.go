package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"sort"
	"sync"

	agentkeys "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/agent/keymanager/v1"
	serverkeys "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/server/keymanager/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// serverKeys keeps keys in memory.
type serverKeys struct {
	serverkeys.UnsafeKeyManagerServer
	common
	keysMutex sync.Mutex
	keys      map[string]crypto.Signer
}

func (k *serverKeys) describe(id string, key crypto.Signer) *serverkeys.PublicKey {
	pkix, _ := x509.MarshalPKIXPublicKey(key.Public())
	kind := serverkeys.KeyType_EC_P256
	switch public := key.Public().(type) {
	case *ecdsa.PublicKey:
		if public.Curve == elliptic.P384() {
			kind = serverkeys.KeyType_EC_P384
		}
	case *rsa.PublicKey:
		kind = serverkeys.KeyType_RSA_2048
		if public.Size() == 512 {
			kind = serverkeys.KeyType_RSA_4096
		}
	}
	sum := sha256.Sum256(pkix)
	described := &serverkeys.PublicKey{Id: id, Type: kind, PkixData: pkix, Fingerprint: hex.EncodeToString(sum[:])}
	switch k.now().Mode {
	case "other id":
		described.Id = "another"
	case "no key":
		described.PkixData = nil
	case "no sense":
		described.PkixData = []byte("no sense")
	}
	return described
}

func (k *serverKeys) GenerateKey(ctx context.Context, request *serverkeys.GenerateKeyRequest) (*serverkeys.GenerateKeyResponse, error) {
	if request.KeyId == "" {
		return nil, status.Error(codes.InvalidArgument, "key id is required")
	}
	if err := k.misbehave(ctx); err != nil {
		return nil, err
	}
	if k.now().Mode == "empty" {
		return &serverkeys.GenerateKeyResponse{}, nil
	}
	kind := request.KeyType
	if k.now().Mode == "other kind" {
		kind = serverkeys.KeyType_EC_P384
	}
	var key crypto.Signer
	var err error
	switch kind {
	case serverkeys.KeyType_EC_P256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case serverkeys.KeyType_EC_P384:
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case serverkeys.KeyType_RSA_2048:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case serverkeys.KeyType_RSA_4096:
		key, err = rsa.GenerateKey(rand.Reader, 4096)
	default:
		return nil, status.Error(codes.InvalidArgument, "key type is required")
	}
	if err != nil {
		return nil, err
	}
	k.count(ctx, "generate")
	k.keysMutex.Lock()
	defer k.keysMutex.Unlock()
	if k.keys == nil {
		k.keys = map[string]crypto.Signer{}
	}
	k.keys[request.KeyId] = key
	return &serverkeys.GenerateKeyResponse{PublicKey: k.describe(request.KeyId, key)}, nil
}

func (k *serverKeys) GetPublicKey(ctx context.Context, request *serverkeys.GetPublicKeyRequest) (*serverkeys.GetPublicKeyResponse, error) {
	if request.KeyId == "" {
		return nil, status.Error(codes.InvalidArgument, "key id is required")
	}
	k.keysMutex.Lock()
	defer k.keysMutex.Unlock()
	key, found := k.keys[request.KeyId]
	if !found {
		return &serverkeys.GetPublicKeyResponse{}, nil
	}
	return &serverkeys.GetPublicKeyResponse{PublicKey: k.describe(request.KeyId, key)}, nil
}

func (k *serverKeys) GetPublicKeys(ctx context.Context, request *serverkeys.GetPublicKeysRequest) (*serverkeys.GetPublicKeysResponse, error) {
	k.keysMutex.Lock()
	defer k.keysMutex.Unlock()
	answer := &serverkeys.GetPublicKeysResponse{}
	for id, key := range k.keys {
		answer.PublicKeys = append(answer.PublicKeys, k.describe(id, key))
	}
	// In no order that a host could rely on.
	sort.Slice(answer.PublicKeys, func(i, j int) bool { return answer.PublicKeys[i].Id > answer.PublicKeys[j].Id })
	return answer, nil
}

func (k *serverKeys) SignData(ctx context.Context, request *serverkeys.SignDataRequest) (*serverkeys.SignDataResponse, error) {
	if err := k.misbehave(ctx); err != nil {
		return nil, err
	}
	k.keysMutex.Lock()
	key, found := k.keys[request.KeyId]
	k.keysMutex.Unlock()
	if !found {
		return nil, status.Errorf(codes.NotFound, "no such key %q", request.KeyId)
	}
	var options crypto.SignerOpts
	switch given := request.SignerOpts.(type) {
	case *serverkeys.SignDataRequest_HashAlgorithm:
		options = crypto.Hash(given.HashAlgorithm)
	case *serverkeys.SignDataRequest_PssOptions:
		options = &rsa.PSSOptions{
			SaltLength: int(given.PssOptions.SaltLength),
			Hash:       crypto.Hash(given.PssOptions.HashAlgorithm),
		}
	default:
		return nil, status.Error(codes.InvalidArgument, "signer opts is required")
	}
	data := request.Data
	if k.now().Mode == "other signature" {
		other := sha256.Sum256([]byte("something else"))
		data = other[:len(data)]
	}
	signature, err := key.Sign(rand.Reader, data, options)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "unable to sign: %v", err)
	}
	answer := &serverkeys.SignDataResponse{
		Signature:      signature,
		KeyFingerprint: k.describe(request.KeyId, key).Fingerprint,
	}
	switch k.now().Mode {
	case "no signature":
		answer.Signature = nil
	case "other fingerprint":
		answer.KeyFingerprint = "another"
	}
	return answer, nil
}

// agentKeys is the same with the agent's messages.
type agentKeys struct {
	agentkeys.UnsafeKeyManagerServer
	serverKeys
}

// as turns a message of one package into that of the other: they are the same on the wire.
func as(from, to proto.Message) error {
	wire, err := proto.Marshal(from)
	if err != nil {
		return err
	}
	return proto.Unmarshal(wire, to)
}

func translate[Q, A proto.Message, R proto.Message](
	ctx context.Context, request proto.Message, inner Q, answer R, call func(context.Context, Q) (A, error),
) (R, error) {
	if err := as(request, inner); err != nil {
		return answer, err
	}
	given, err := call(ctx, inner)
	if err != nil {
		return answer, err
	}
	return answer, as(given, answer)
}

func (k *agentKeys) GenerateKey(ctx context.Context, request *agentkeys.GenerateKeyRequest) (*agentkeys.GenerateKeyResponse, error) {
	return translate(ctx, request, &serverkeys.GenerateKeyRequest{}, &agentkeys.GenerateKeyResponse{}, k.serverKeys.GenerateKey)
}

func (k *agentKeys) GetPublicKey(ctx context.Context, request *agentkeys.GetPublicKeyRequest) (*agentkeys.GetPublicKeyResponse, error) {
	return translate(ctx, request, &serverkeys.GetPublicKeyRequest{}, &agentkeys.GetPublicKeyResponse{}, k.serverKeys.GetPublicKey)
}

func (k *agentKeys) GetPublicKeys(ctx context.Context, request *agentkeys.GetPublicKeysRequest) (*agentkeys.GetPublicKeysResponse, error) {
	return translate(ctx, request, &serverkeys.GetPublicKeysRequest{}, &agentkeys.GetPublicKeysResponse{}, k.serverKeys.GetPublicKeys)
}

func (k *agentKeys) SignData(ctx context.Context, request *agentkeys.SignDataRequest) (*agentkeys.SignDataResponse, error) {
	return translate(ctx, request, &serverkeys.SignDataRequest{}, &agentkeys.SignDataResponse{}, k.serverKeys.SignData)
}
