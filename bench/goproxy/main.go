// A bare net/http/httputil reverse proxy: what a gateway in Go costs before it checks anything.
//
// usage: goproxy LISTEN_PORT UPSTREAM_PORT
package main

import (
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"time"
)

const idleConnections = 1024

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: goproxy LISTEN_PORT UPSTREAM_PORT")
	}
	upstream := &url.URL{Scheme: "http", Host: "127.0.0.1:" + os.Args[2]}
	proxy := &httputil.ReverseProxy{
		FlushInterval: -1, // as every MCP gateway must: an event goes out when it comes in
		Rewrite: func(request *httputil.ProxyRequest) {
			request.SetURL(upstream)
			request.Out.Header.Set("Authorization", "Bearer of-the-upstream")
		},
		Transport: &http.Transport{
			MaxIdleConns:        idleConnections,
			MaxIdleConnsPerHost: idleConnections,
			IdleConnTimeout:     90 * time.Second,
			DisableCompression:  true,
		},
	}
	server := &http.Server{
		Addr:              "127.0.0.1:" + os.Args[1],
		Handler:           proxy,
		ReadHeaderTimeout: 10 * time.Second,
	}
	log.Fatal(server.ListenAndServe())
}
