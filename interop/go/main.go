// A workload on go-spiffe; see interop/README.md for the verbs.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"crypto/tls"
)

type object map[string]any

func say(value object) {
	line, err := json.Marshal(value)
	check(err)
	fmt.Println(string(line))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func describe(svid *x509svid.SVID) object {
	leaf := svid.Certificates[0]
	return object{"id": svid.ID.String(), "serial": leaf.SerialNumber.String(), "hint": svid.Hint}
}

type watcher chan *workloadapi.X509Context

func (w watcher) OnX509ContextUpdate(update *workloadapi.X509Context) { w <- update }
func (w watcher) OnX509ContextWatchError(err error)                   { fmt.Fprintln(os.Stderr, err) }

func main() {
	ctx := context.Background()
	verb, args := os.Args[1], os.Args[2:]
	switch verb {
	case "fetch-x509":
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		update, err := workloadapi.FetchX509Context(ctx)
		check(err)
		svids, bundles := []object{}, []string{}
		for _, svid := range update.SVIDs {
			bundle, err := update.Bundles.GetX509BundleForTrustDomain(svid.ID.TrustDomain())
			check(err)
			_, _, err = x509svid.Verify(svid.Certificates, bundle)
			check(err)
			svids = append(svids, describe(svid))
		}
		for _, bundle := range update.Bundles.Bundles() {
			bundles = append(bundles, bundle.TrustDomain().Name())
		}
		say(object{"svids": svids, "bundles": bundles})
	case "fetch-jwt":
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		svid, err := workloadapi.FetchJWTSVID(ctx, jwtsvid.Params{Audience: args[0]})
		check(err)
		bundles, err := workloadapi.FetchJWTBundles(ctx)
		check(err)
		_, err = jwtsvid.ParseAndValidate(svid.Marshal(), bundles, []string{args[0]})
		check(err)
		say(object{"id": svid.ID.String(), "token": svid.Marshal()})
	case "validate-jwt":
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		svid, err := workloadapi.ValidateJWTSVID(ctx, args[1], args[0])
		check(err)
		say(object{"id": svid.ID.String()})
	case "watch":
		count, err := strconv.Atoi(args[0])
		check(err)
		updates := make(watcher, 16)
		go func() { check(workloadapi.WatchX509Context(ctx, updates)) }()
		for range count {
			say(describe((<-updates).DefaultSVID()))
		}
	case "serve":
		serve(ctx, spiffeid.RequireFromString(args[0]))
	case "dial":
		source, err := workloadapi.NewX509Source(ctx)
		check(err)
		expected := spiffeid.RequireFromString(args[1])
		config := tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(expected))
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", args[0], config)
		check(err)
		_, err = conn.Write([]byte("hello\n"))
		check(err)
		reply, err := bufio.NewReader(conn).ReadString('\n')
		check(err)
		say(object{"reply": reply})
	default:
		check(fmt.Errorf("unknown verb %q", verb))
	}
}

func serve(ctx context.Context, allowed spiffeid.ID) {
	source, err := workloadapi.NewX509Source(ctx)
	check(err)
	config := tlsconfig.MTLSServerConfig(source, source, tlsconfig.AuthorizeID(allowed))
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	check(err)
	say(object{"port": listener.Addr().(*net.TCPAddr).Port})
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(10 * time.Second))
				line, err := bufio.NewReader(conn).ReadString('\n')
				if err != nil {
					say(object{"refused": err.Error()})
					return
				}
				fmt.Fprintf(conn, "echo %s", line)
				say(object{"served": true})
			}()
		}
	}()
	io.Copy(io.Discard, os.Stdin)
}
