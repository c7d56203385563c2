package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/exp/proto/spiffe/broker"
	"github.com/spiffe/spire-plugin-sdk/pluginsdk"
	identityv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/hostservice/server/identityprovider/v1"
	stores "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/agent/svidstore/v1"
	workloads "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/agent/workloadattestor/v1"
	publishers "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/server/bundlepublisher/v1"
	composers "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/server/credentialcomposer/v1"
	notifiers "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/server/notifier/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
)

// composer signs its name into everything but the server's own SVID.
type composer struct {
	composers.UnimplementedCredentialComposerServer
	common
}

func (c *composer) subject(attributes *composers.X509SVIDAttributes, who string) (*composers.X509SVIDAttributes, error) {
	if attributes.Subject == nil {
		attributes.Subject = &composers.DistinguishedName{}
	}
	attributes.Subject.OrganizationalUnit = append(attributes.Subject.OrganizationalUnit, who)
	if c.now().Mode == "no subject" {
		attributes.Subject = nil
	}
	if c.now().Mode == "no oid" {
		attributes.ExtraExtensions = append(attributes.ExtraExtensions, &composers.X509Extension{Oid: "1.x"})
	}
	return attributes, nil
}

func (c *composer) ComposeServerX509CA(ctx context.Context, request *composers.ComposeServerX509CARequest) (*composers.ComposeServerX509CAResponse, error) {
	request.Attributes.Subject.OrganizationalUnit = []string{"composed"}
	return &composers.ComposeServerX509CAResponse{Attributes: request.Attributes}, nil
}

func (c *composer) ComposeAgentX509SVID(ctx context.Context, request *composers.ComposeAgentX509SVIDRequest) (*composers.ComposeAgentX509SVIDResponse, error) {
	attributes, err := c.subject(request.Attributes, "agent")
	return &composers.ComposeAgentX509SVIDResponse{Attributes: attributes}, err
}

func (c *composer) ComposeWorkloadX509SVID(ctx context.Context, request *composers.ComposeWorkloadX509SVIDRequest) (*composers.ComposeWorkloadX509SVIDResponse, error) {
	if err := c.misbehave(ctx); err != nil {
		return nil, err
	}
	if _, err := x509.ParsePKIXPublicKey(request.PublicKey); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "that is no key: %v", err)
	}
	attributes, err := c.subject(request.Attributes, request.SpiffeId)
	return &composers.ComposeWorkloadX509SVIDResponse{Attributes: attributes}, err
}

func (c *composer) ComposeWorkloadJWTSVID(ctx context.Context, request *composers.ComposeWorkloadJWTSVIDRequest) (*composers.ComposeWorkloadJWTSVIDResponse, error) {
	if err := c.misbehave(ctx); err != nil {
		return nil, err
	}
	claims := request.Attributes.Claims
	claims.Fields["composed_for"] = structpb.NewStringValue(request.SpiffeId)
	claims.Fields["answer"] = structpb.NewNumberValue(42)
	return &composers.ComposeWorkloadJWTSVIDResponse{Attributes: request.Attributes}, nil
}

// notifier writes down what it is told, and whom it is told by.
type notifier struct {
	notifiers.UnsafeNotifierServer
	common
	identity identityv1.IdentityProviderServiceClient
}

func (n *notifier) BrokerHostServices(services pluginsdk.ServiceBroker) error {
	services.BrokerClient(&n.identity)
	return n.common.BrokerHostServices(services)
}

func (n *notifier) Notify(ctx context.Context, request *notifiers.NotifyRequest) (*notifiers.NotifyResponse, error) {
	if err := n.misbehave(ctx); err != nil {
		return nil, err
	}
	bundle := request.GetBundleUpdated().Bundle
	return &notifiers.NotifyResponse{}, n.write("updated %s x509=%d", bundle.TrustDomain, len(bundle.X509Authorities))
}

func (n *notifier) NotifyAndAdvise(ctx context.Context, request *notifiers.NotifyAndAdviseRequest) (*notifiers.NotifyAndAdviseResponse, error) {
	if n.now().Mode == "advise against" {
		return nil, status.Error(codes.FailedPrecondition, "better not")
	}
	bundle := request.GetBundleLoaded().Bundle
	identity := "none"
	answer, err := n.identity.FetchX509Identity(ctx, &identityv1.FetchX509IdentityRequest{})
	switch {
	case err != nil:
		identity = status.Convert(err).Message()
	default:
		if certificate, err := x509.ParseCertificate(answer.Identity.CertChain[0]); err == nil {
			if _, err := x509.ParsePKCS8PrivateKey(answer.Identity.PrivateKey); err == nil {
				identity = fmt.Sprint(certificate.URIs[0])
			}
		}
	}
	n.count(ctx, "loaded")
	return &notifiers.NotifyAndAdviseResponse{}, n.write("loaded %s x509=%d identity=%s", bundle.TrustDomain, len(bundle.X509Authorities), identity)
}

// publisher writes down what it publishes.
type publisher struct {
	publishers.UnsafeBundlePublisherServer
	common
}

func (p *publisher) PublishBundle(ctx context.Context, request *publishers.PublishBundleRequest) (*publishers.PublishBundleResponse, error) {
	if err := p.misbehave(ctx); err != nil {
		return nil, err
	}
	bundle := request.Bundle
	return &publishers.PublishBundleResponse{}, p.write("published %s x509=%d jwt=%d", bundle.TrustDomain, len(bundle.X509Authorities), len(bundle.JwtAuthorities))
}

// attestor knows every process.
type attestor struct {
	workloads.UnsafeWorkloadAttestorServer
	common
}

func (a *attestor) selectors(pid int32) []string {
	values := []string{"go:yes", fmt.Sprintf("pid:%d", pid)}
	switch a.now().Mode {
	case "many":
		for i := range 5000 {
			values = append(values, fmt.Sprintf("n:%d", i))
		}
	case "blank":
		values = append(values, "")
	}
	return values
}

func (a *attestor) Attest(ctx context.Context, request *workloads.AttestRequest) (*workloads.AttestResponse, error) {
	if err := a.misbehave(ctx); err != nil {
		return nil, err
	}
	if a.now().Mode == "references" {
		return nil, status.Error(codes.Unimplemented, "references only")
	}
	return &workloads.AttestResponse{SelectorValues: a.selectors(request.Pid)}, nil
}

func (a *attestor) AttestReference(ctx context.Context, request *workloads.AttestReferenceRequest) (*workloads.AttestReferenceResponse, error) {
	var reference broker.WorkloadPIDReference
	if err := request.Reference.UnmarshalTo(&reference); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "no such reference: %v", err)
	}
	return &workloads.AttestReferenceResponse{SelectorValues: a.selectors(reference.Pid)}, nil
}

// store writes down what it stores.
type store struct {
	stores.UnsafeSVIDStoreServer
	common
}

func (s *store) PutX509SVID(ctx context.Context, request *stores.PutX509SVIDRequest) (*stores.PutX509SVIDResponse, error) {
	metadata, _ := json.Marshal(request.Metadata)
	return &stores.PutX509SVIDResponse{}, s.write("put %s %s", request.Svid.SpiffeID, metadata)
}

func (s *store) DeleteX509SVID(ctx context.Context, request *stores.DeleteX509SVIDRequest) (*stores.DeleteX509SVIDResponse, error) {
	metadata, _ := json.Marshal(request.Metadata)
	return &stores.DeleteX509SVIDResponse{}, s.write("delete %s", metadata)
}
