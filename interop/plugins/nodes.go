package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/spire-plugin-sdk/pluginsdk"
	agentstorev1 "github.com/spiffe/spire-plugin-sdk/proto/spire/hostservice/server/agentstore/v1"
	agentnodes "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/agent/nodeattestor/v1"
	servernodes "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/server/nodeattestor/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const challenge = "say this backwards"

func reversed(text string) string {
	bytes := []byte(text)
	slices.Reverse(bytes)
	return string(bytes)
}

// judge believes a node that can say a text backwards.
type judge struct {
	servernodes.UnsafeNodeAttestorServer
	common
	agents agentstorev1.AgentStoreServiceClient
}

func (j *judge) BrokerHostServices(broker pluginsdk.ServiceBroker) error {
	if !broker.BrokerClient(&j.agents) {
		return status.Error(codes.FailedPrecondition, "agent store required")
	}
	return j.common.BrokerHostServices(broker)
}

func (j *judge) Attest(stream servernodes.NodeAttestor_AttestServer) error {
	ctx := stream.Context()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if err := j.misbehave(ctx); err != nil {
		return err
	}
	mode := j.now().Mode
	rounds := 2
	if mode == "endless" {
		rounds = 1 << 30
	}
	for range rounds {
		err := stream.Send(&servernodes.AttestResponse{Response: &servernodes.AttestResponse_Challenge{Challenge: []byte(challenge)}})
		if err != nil {
			return err
		}
		answer, err := stream.Recv()
		if err != nil {
			return err
		}
		if string(answer.GetChallengeResponse()) != reversed(challenge) {
			return status.Error(codes.PermissionDenied, "that is not backwards")
		}
	}
	name := string(first.GetPayload())
	id := fmt.Sprintf("spiffe://%s/spire/agent/gotest/%s", j.trustDomain, name)
	_, err = j.agents.GetAgentInfo(ctx, &agentstorev1.GetAgentInfoRequest{AgentId: id})
	known := status.Code(err) == codes.OK
	incoming, _ := metadata.FromIncomingContext(ctx)
	j.write("attest %s known=%v host=%v ip=%v", name, known,
		strings.Join(incoming.Get("X-Untrusted-Forwarded-Host"), ","), strings.Join(incoming.Get("X-Forwarded-Client-IP"), ","))
	j.count(ctx, "attest")
	selectors := []string{"name:" + name, fmt.Sprintf("known:%v", known)}
	switch mode {
	case "no id":
		id = ""
	case "no sense":
		id = "not an ID"
	case "server id":
		id = fmt.Sprintf("spiffe://%s/spire/server", j.trustDomain)
	case "foreign id":
		id = "spiffe://elsewhere.test/spire/agent/gotest/x"
	case "workload id":
		id = fmt.Sprintf("spiffe://%s/boss", j.trustDomain)
	case "others id":
		id = fmt.Sprintf("spiffe://%s/spire/agent/join_token/x", j.trustDomain)
	case "close":
		return nil
	case "empty":
		return stream.Send(&servernodes.AttestResponse{})
	case "many":
		for i := range 5000 {
			selectors = append(selectors, fmt.Sprintf("n:%d", i))
		}
	case "long":
		selectors = append(selectors, strings.Repeat("x", 100000))
	}
	return stream.Send(&servernodes.AttestResponse{
		Response: &servernodes.AttestResponse_AgentAttributes{
			AgentAttributes: &servernodes.AgentAttributes{SpiffeId: id, SelectorValues: selectors, CanReattest: true},
		},
	})
}

// evidence is the other half.
type evidence struct {
	agentnodes.UnsafeNodeAttestorServer
	common
}

func (e *evidence) AidAttestation(stream agentnodes.NodeAttestor_AidAttestationServer) error {
	if err := e.misbehave(stream.Context()); err != nil {
		return err
	}
	send := func(data *agentnodes.PayloadOrChallengeResponse) error { return stream.Send(data) }
	mode := e.now().Mode
	if mode == "close" {
		return nil
	}
	payload := []byte(e.now().Payload)
	if mode == "empty" {
		payload = nil
	}
	if err := send(&agentnodes.PayloadOrChallengeResponse{Data: &agentnodes.PayloadOrChallengeResponse_Payload{Payload: payload}}); err != nil {
		return err
	}
	for {
		asked, err := stream.Recv()
		if err != nil {
			return err
		}
		answer := []byte(reversed(string(asked.Challenge)))
		if mode == "forwards" {
			answer = asked.Challenge
		}
		if err := send(&agentnodes.PayloadOrChallengeResponse{Data: &agentnodes.PayloadOrChallengeResponse_ChallengeResponse{ChallengeResponse: answer}}); err != nil {
			return err
		}
	}
}

// wait is for tests that need a slow answer.
func wait(ctx context.Context, duration time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(duration):
	}
}
