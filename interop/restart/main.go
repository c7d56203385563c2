// Holds streams open and fetches in a loop, and tells what an agent's restart did to them.
//
//	restart <socket> <streams> <fetchers>
//
// Each stream has a connection of its own and is opened again the moment it ends. Fetchers take the
// first message of FetchX509SVID, half of them on a new connection each time, half on one they keep.
// For each line of standard input a line of JSON tells what happened since the one before.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strconv"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

type report struct {
	Open       int            `json:"open"`
	Ended      map[string]int `json:"ended"`
	Reopened   int            `json:"reopened"`
	GapP50     float64        `json:"gap_p50_ms"`
	GapP99     float64        `json:"gap_p99_ms"`
	GapMax     float64        `json:"gap_max_ms"`
	Fetched    int            `json:"fetched"`
	SlowestMs  float64        `json:"slowest_fetch_ms"`
	Failed     map[string]int `json:"failed"`
	FailedOpen map[string]int `json:"failed_open"`
}

var (
	mutex sync.Mutex
	now   = fresh()
	open  int
	gaps  []float64
)

func fresh() report {
	return report{Ended: map[string]int{}, Failed: map[string]int{}, FailedOpen: map[string]int{}}
}

func locked(change func()) {
	mutex.Lock()
	defer mutex.Unlock()
	change()
}

func text(err error) string {
	return fmt.Sprintf("%s: %s", status.Code(err), status.Convert(err).Message())
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func dial(socket string) *grpc.ClientConn {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(err)
	return conn
}

func fetch(ctx context.Context, conn *grpc.ClientConn) (workload.SpiffeWorkloadAPI_FetchX509SVIDClient, error) {
	ctx = metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true")
	stream, err := workload.NewSpiffeWorkloadAPIClient(conn).FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err != nil {
		return nil, err
	}
	_, err = stream.Recv()
	return stream, err
}

func hold(socket string) {
	conn := dial(socket)
	ended := time.Time{}
	for {
		stream, err := fetch(context.Background(), conn)
		if err != nil {
			locked(func() { now.FailedOpen[text(err)]++ })
			time.Sleep(100 * time.Millisecond)
			continue
		}
		locked(func() {
			open++
			if !ended.IsZero() {
				now.Reopened++
				gaps = append(gaps, time.Since(ended).Seconds()*1000)
			}
		})
		for err == nil {
			_, err = stream.Recv()
		}
		ended = time.Now()
		locked(func() { open--; now.Ended[text(err)]++ })
	}
}

func loop(socket string, keep bool) {
	conn := dial(socket)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
		begun := time.Now()
		_, err := fetch(ctx, conn)
		took := time.Since(begun).Seconds() * 1000
		cancel()
		locked(func() {
			if err != nil {
				now.Failed[text(err)]++
				return
			}
			now.Fetched++
			now.SlowestMs = max(now.SlowestMs, took)
		})
		if !keep {
			conn.Close()
			conn = dial(socket)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func main() {
	socket := os.Args[1]
	streams, err := strconv.Atoi(os.Args[2])
	must(err)
	fetchers, err := strconv.Atoi(os.Args[3])
	must(err)
	for range streams {
		go hold(socket)
	}
	for i := range fetchers {
		go loop(socket, i%2 == 0)
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var told report
		locked(func() {
			told, now = now, fresh()
			told.Open = open
			sort.Float64s(gaps)
			if n := len(gaps); n > 0 {
				told.GapP50, told.GapP99, told.GapMax = gaps[n/2], gaps[n*99/100], gaps[n-1]
			}
			gaps = nil
		})
		must(json.NewEncoder(os.Stdout).Encode(told))
	}
}
