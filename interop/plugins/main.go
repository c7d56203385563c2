// The interoperability tests' external plugins, one per kind, written with SPIRE's plugin SDK.
// The first argument says which kind; the plugin's configuration, how it behaves.
package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/hcl"
	"github.com/spiffe/spire-plugin-sdk/pluginmain"
	"github.com/spiffe/spire-plugin-sdk/pluginsdk"
	metricsv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/hostservice/common/metrics/v1"
	agentkeys "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/agent/keymanager/v1"
	agentnodes "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/agent/nodeattestor/v1"
	stores "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/agent/svidstore/v1"
	workloads "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/agent/workloadattestor/v1"
	publishers "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/server/bundlepublisher/v1"
	composers "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/server/credentialcomposer/v1"
	serverkeys "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/server/keymanager/v1"
	servernodes "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/server/nodeattestor/v1"
	notifiers "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/server/notifier/v1"
	upstreams "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/server/upstreamauthority/v1"
	configv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/service/common/config/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// settings are what plugin_data may say, whatever the kind.
type settings struct {
	File    string `hcl:"file"`    // where the plugin writes down what it was told
	Payload string `hcl:"payload"` // what the node shows
	Mode    string `hcl:"mode"`    // how it misbehaves
	Refuse  string `hcl:"refuse"`  // makes Configure fail with this text
	Note    string `hcl:"note"`    // what Validate remarks
	Exit    bool   `hcl:"exit"`    // ends the process in Configure
}

// common is what every kind has: configuration, a logger, metrics.
type common struct {
	configv1.UnsafeConfigServer
	mutex       sync.Mutex
	settings    settings
	trustDomain string
	logger      hclog.Logger
	metrics     metricsv1.MetricsServiceClient
}

func (c *common) SetLogger(logger hclog.Logger) { c.logger = logger }

func (c *common) BrokerHostServices(broker pluginsdk.ServiceBroker) error {
	broker.BrokerClient(&c.metrics)
	return nil
}

func (c *common) Configure(ctx context.Context, request *configv1.ConfigureRequest) (*configv1.ConfigureResponse, error) {
	var read settings
	if err := hcl.Decode(&read, request.HclConfiguration); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "unable to decode configuration: %v", err)
	}
	if read.Exit {
		os.Exit(3)
	}
	if read.Mode == "hang configure" {
		time.Sleep(time.Hour)
	}
	if read.Refuse != "" {
		return nil, status.Error(codes.InvalidArgument, read.Refuse)
	}
	c.mutex.Lock()
	c.settings = read
	c.trustDomain = request.CoreConfiguration.TrustDomain
	c.mutex.Unlock()
	c.logger.Info("Test plugin configured", "mode", read.Mode, "size", len(request.HclConfiguration))
	fmt.Fprintln(os.Stdout, "a line on standard output")
	return &configv1.ConfigureResponse{}, nil
}

func (c *common) Validate(ctx context.Context, request *configv1.ValidateRequest) (*configv1.ValidateResponse, error) {
	var read settings
	if err := hcl.Decode(&read, request.HclConfiguration); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "unable to decode configuration: %v", err)
	}
	if read.Note != "" {
		return &configv1.ValidateResponse{Notes: []string{read.Note}}, nil
	}
	return &configv1.ValidateResponse{Valid: true}, nil
}

func (c *common) now() settings {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.settings
}

// write adds a line to the plugin's file.
func (c *common) write(format string, arguments ...any) error {
	path := c.now().File
	if path == "" {
		return nil
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = fmt.Fprintf(file, format+"\n", arguments...)
	return err
}

// count emits a metric through the host.
func (c *common) count(ctx context.Context, what string) {
	if c.metrics.IsInitialized() {
		c.metrics.IncrCounter(ctx, &metricsv1.IncrCounterRequest{Key: []string{"testplugin", what}, Val: 1})
	}
}

// misbehave does what the mode says before an answer; it gives the error to answer with.
func (c *common) misbehave(ctx context.Context) error {
	switch c.now().Mode {
	case "hang":
		<-ctx.Done()
		return ctx.Err()
	case "fail":
		return status.Error(codes.FailedPrecondition, "told to fail")
	}
	return nil
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "the first argument must be a kind")
		os.Exit(1)
	}
	serve := func(server pluginsdk.PluginServer, config configv1.ConfigServer) {
		pluginmain.Serve(server, configv1.ConfigServiceServer(config))
	}
	switch kind := os.Args[1]; kind {
	case "server-keymanager":
		p := &serverKeys{}
		serve(serverkeys.KeyManagerPluginServer(p), p)
	case "agent-keymanager":
		p := &agentKeys{}
		serve(agentkeys.KeyManagerPluginServer(p), p)
	case "server-nodeattestor":
		p := &judge{}
		serve(servernodes.NodeAttestorPluginServer(p), p)
	case "agent-nodeattestor":
		p := &evidence{}
		serve(agentnodes.NodeAttestorPluginServer(p), p)
	case "upstreamauthority":
		p := &upstream{}
		serve(upstreams.UpstreamAuthorityPluginServer(p), p)
	case "credentialcomposer":
		p := &composer{}
		serve(composers.CredentialComposerPluginServer(p), p)
	case "notifier":
		p := &notifier{}
		serve(notifiers.NotifierPluginServer(p), p)
	case "bundlepublisher":
		p := &publisher{}
		serve(publishers.BundlePublisherPluginServer(p), p)
	case "workloadattestor":
		p := &attestor{}
		serve(workloads.WorkloadAttestorPluginServer(p), p)
	case "svidstore":
		p := &store{}
		serve(stores.SVIDStorePluginServer(p), p)
	case "bare-notifier":
		// Has no configuration service.
		pluginmain.Serve(notifiers.NotifierPluginServer(&notifier{}))
	case "silent":
		time.Sleep(time.Hour)
	case "chatty":
		fmt.Println("hello, I am no plugin")
		time.Sleep(time.Hour)
	case "quits":
		fmt.Fprintln(os.Stderr, "cannot go on")
		os.Exit(4)
	default:
		fmt.Fprintf(os.Stderr, "unknown kind %q\n", kind)
		os.Exit(1)
	}
}
