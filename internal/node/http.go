package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/cohort-tx/cohort/configs"
)

// httpHeaderTimeout ends connections that say nothing.
const httpHeaderTimeout = 5 * time.Second

// httpServer serves metrics and health to those who operate the node.
type httpServer struct {
	listener net.Listener
	server   *http.Server
	done     chan error
}

// startHTTP listens, or does nothing when no address is configured.
//
//	/metrics  Prometheus
//	/healthz  200 while the process works
//	/readyz   200 when the node can do its part, 503 with the reason otherwise
func startHTTP(c configs.HTTP, metrics prometheus.Gatherer, healthy, ready func() error) (*httpServer, error) {
	if c.Address == "" {
		return nil, nil
	}
	listener, err := net.Listen("tcp", c.Address)
	if err != nil {
		return nil, fmt.Errorf("http.address: %w; is another node running with it?", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", report(healthy))
	mux.HandleFunc("GET /readyz", report(ready))
	if c.Pprof {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	s := &httpServer{
		listener: listener,
		server:   &http.Server{Handler: mux, ReadHeaderTimeout: httpHeaderTimeout},
		done:     make(chan error, 1),
	}
	go func() {
		err := s.server.Serve(listener)
		if errors.Is(err, http.ErrServerClosed) {
			err = nil
		}
		s.done <- err
	}()
	return s, nil
}

func report(check func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if err := check(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	}
}

func (s *httpServer) addr() string {
	if s == nil {
		return ""
	}
	return s.listener.Addr().String()
}

// close finishes what is being answered, as long as ctx lets it.
func (s *httpServer) close(ctx context.Context) error {
	if s == nil {
		return nil
	}
	err := s.server.Shutdown(ctx)
	if err != nil {
		err = s.server.Close()
	}
	return errors.Join(err, <-s.done)
}
