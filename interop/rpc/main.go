// Calls methods of the server's API by name, with requests and answers in JSON.
//
// Each line of standard input is one call, {"method": "/package.Service/Method", "request": {…}},
// and has one line of answer: {"code": "OK", "message": "", "response": {…}}.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	_ "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	_ "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	_ "github.com/spiffe/spire-api-sdk/proto/spire/api/server/trustdomain/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
)

type call struct {
	Method  string          `json:"method"`
	Request json.RawMessage `json:"request"`
}

type answer struct {
	Code     string          `json:"code"`
	Message  string          `json:"message"`
	Response json.RawMessage `json:"response,omitempty"`
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func perform(conn *grpc.ClientConn, line []byte) answer {
	var call call
	must(json.Unmarshal(line, &call))
	service, method, found := strings.Cut(strings.TrimPrefix(call.Method, "/"), "/")
	if !found {
		must(fmt.Errorf("no method: %q", call.Method))
	}
	name := protoreflect.FullName(service)
	descriptor, err := protoregistry.GlobalFiles.FindDescriptorByName(name.Append(protoreflect.Name(method)))
	must(err)
	types := descriptor.(protoreflect.MethodDescriptor)
	request, response := dynamicpb.NewMessage(types.Input()), dynamicpb.NewMessage(types.Output())
	must(protojson.Unmarshal(call.Request, request))
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	err = conn.Invoke(ctx, call.Method, request, response)
	if err != nil {
		return answer{Code: status.Code(err).String(), Message: status.Convert(err).Message()}
	}
	text, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(response)
	must(err)
	return answer{Code: "OK", Response: text}
}

func main() {
	conn, err := grpc.NewClient("unix://"+os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(err)
	defer conn.Close()
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		must(json.NewEncoder(os.Stdout).Encode(perform(conn, lines.Bytes())))
	}
	must(lines.Err())
}
