package main

import (
	"bufio"
	"context"
	"crypto"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
)

func publicOf(private any) crypto.PublicKey {
	if signer, ok := private.(crypto.Signer); ok {
		return signer.Public()
	}
	return nil
}

// raw passes messages as they are: Steeple's own method has no Go module.
type raw struct{}

func (raw) Marshal(message any) ([]byte, error) { return *message.(*[]byte), nil }

func (raw) Unmarshal(data []byte, message any) error {
	*message.(*[]byte) = append([]byte(nil), data...)
	return nil
}

func (raw) Name() string { return "proto" }

type fields struct {
	numbers map[protowire.Number]uint64
	bytes   map[protowire.Number][][]byte
}

func parse(message []byte) fields {
	result := fields{map[protowire.Number]uint64{}, map[protowire.Number][][]byte{}}
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		message = message[n:]
		if kind == protowire.VarintType {
			value, n := protowire.ConsumeVarint(message)
			result.numbers[number], message = value, message[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(message)
		result.bytes[number] = append(result.bytes[number], value)
		message = message[n:]
	}
	return result
}

func field(out []byte, number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(out, number, protowire.BytesType), value)
}

func selector(kind, value string) []byte {
	return field(field(nil, 1, []byte(kind)), 2, []byte(value))
}

func subscription(id uint64, selectors [][]byte, pid uint64) []byte {
	out := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), id)
	for _, it := range selectors {
		out = field(out, 2, it)
	}
	if pid != 0 {
		out = protowire.AppendVarint(protowire.AppendTag(out, 3, protowire.VarintType), pid)
	}
	return out
}

// watch subscribes to many sets of selectors on one stream of
// steeple.agent.delegation.v1 and prints what is known whenever it is asked.
// {"pid": N, "id": M} subscribes to a process, {"unsubscribe": M} ends one.
func watch(conn *grpc.ClientConn, count int) {
	started := time.Now()
	desc := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	path := "/steeple.agent.delegation.v1.Delegation/WatchX509SVIDs"
	stream, err := conn.NewStream(context.Background(), desc, path, grpc.ForceCodec(raw{}))
	if err != nil {
		fail(err)
	}
	var lock sync.Mutex
	known := map[uint64]map[string]bool{}
	failed := map[uint64]string{}
	changes, largest, upserts, end := 0, 0, 0, ""
	begun := make(chan struct{})
	go func() {
		for {
			var message []byte
			if err := stream.RecvMsg(&message); err != nil {
				lock.Lock()
				end = status.Code(err).String() + ": " + status.Convert(err).Message()
				lock.Unlock()
				return
			}
			lock.Lock()
			largest = max(largest, len(message))
			for _, encoded := range parse(message).bytes[1] {
				change := parse(encoded)
				id := change.numbers[1]
				changes++
				if known[id] == nil {
					known[id] = map[string]bool{}
				}
				for _, svid := range change.bytes[2] {
					upserts++
					known[id][string(parse(svid).bytes[1][0])] = true
				}
				for _, gone := range change.bytes[3] {
					delete(known[id], string(gone))
				}
				for _, encoded := range change.bytes[6] {
					it := parse(encoded)
					failed[id] = fmt.Sprintf("%d: %s", it.numbers[1], it.bytes[2][0])
				}
			}
			if len(known) >= count {
				select {
				case <-begun:
				default:
					close(begun)
				}
			}
			lock.Unlock()
		}
	}()
	for from := 1; from <= count; from += 1000 {
		var request []byte
		for i := from; i < from+1000 && i <= count; i++ {
			selectors := [][]byte{selector("many", "all"), selector("many", strconv.Itoa(i-1))}
			request = field(request, 1, subscription(uint64(i), selectors, 0))
		}
		if err := stream.SendMsg(&request); err != nil {
			fail(err)
		}
	}
	if count > 0 {
		<-begun
	}
	report := func(event string) {
		lock.Lock()
		defer lock.Unlock()
		identities := 0
		for _, it := range known {
			identities += len(it)
		}
		say(map[string]any{"event": event, "milliseconds": time.Since(started).Milliseconds(), "subscriptions": len(known),
			"identities": identities, "changes": changes, "upserts": upserts, "largest": largest, "failed": failed, "end": end})
	}
	report("open")
	input := bufio.NewScanner(os.Stdin)
	for input.Scan() {
		var order struct {
			ID, Pid, Unsubscribe uint64
			Selectors            []string
		}
		if err := json.Unmarshal(input.Bytes(), &order); err == nil && order.ID+order.Unsubscribe > 0 {
			var request []byte
			if order.Unsubscribe > 0 {
				request = protowire.AppendVarint(protowire.AppendTag(nil, 2, protowire.VarintType), order.Unsubscribe)
				lock.Lock()
				delete(known, order.Unsubscribe)
				lock.Unlock()
			} else {
				selectors := [][]byte{}
				for _, it := range order.Selectors {
					selectors = append(selectors, selector("unix", it))
				}
				request = field(nil, 1, subscription(order.ID, selectors, order.Pid))
			}
			_ = stream.SendMsg(&request)
		}
		report("now")
	}
}
