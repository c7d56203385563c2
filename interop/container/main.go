// A workload for the inside of a container, on go-spiffe, without anything beside it.
//
//	fetch                 prints the SPIFFE IDs that it gets, and why it gets none
//	serve <unix socket>   does the same for whoever connects, until it is ended
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func main() {
	switch os.Args[1] {
	case "fetch":
		fetch(os.Stdout)
	case "serve":
		listener, err := net.Listen("unix", os.Args[2])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		for {
			conn, err := listener.Accept()
			if err != nil {
				os.Exit(1)
			}
			fetch(conn)
			conn.Close()
		}
	}
}

func fetch(out io.Writer) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	update, err := workloadapi.FetchX509Context(ctx)
	if err != nil {
		fmt.Fprintln(out, "error:", err)
		return
	}
	for _, svid := range update.SVIDs {
		fmt.Fprintln(out, svid.ID)
	}
}
