package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"

	"github.com/spf13/pflag"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/cohort-tx/cohort/participant"
)

// transport is how connections to nodes are protected: by TLS, with the
// certificate that nodes ask of their clients; or not at all, which is for
// loopback unless insecure says otherwise.
type transport struct {
	caFile, certFile, keyFile string
	insecure                  bool
}

func (t *transport) flags(flags *pflag.FlagSet) {
	flags.StringVar(&t.caFile, "tls-ca", "", "PEM file of the authority that signed the nodes' certificates; turns TLS on")
	flags.StringVar(&t.certFile, "tls-cert", "", "PEM file of this client's certificate")
	flags.StringVar(&t.keyFile, "tls-key", "", "PEM file of its key")
	flags.BoolVar(&t.insecure, "insecure", false, "allow addresses beyond loopback without TLS")
}

// check refuses what would send data in the clear without anybody having said so.
func (t *transport) check(addrs []string) error {
	if t.caFile == "" {
		if t.certFile != "" || t.keyFile != "" {
			return usagef("--tls-cert and --tls-key need --tls-ca")
		}
		for _, addr := range addrs {
			if host, _, err := net.SplitHostPort(addr); err != nil || !t.insecure && !isLoopback(host) {
				return usagef("address %s is not on this machine: give --tls-ca, --tls-cert and --tls-key, or --insecure to send everything in the clear", addr)
			}
		}
		return nil
	}
	if t.certFile == "" || t.keyFile == "" {
		return usagef("--tls-ca needs --tls-cert and --tls-key: nodes ask their clients for a certificate")
	}
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// config is nil without TLS.
func (t *transport) config() (*tls.Config, error) {
	if t.caFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(t.caFile)
	if err != nil {
		return nil, fmt.Errorf("--tls-ca: %w", err)
	}
	authorities := x509.NewCertPool()
	if !authorities.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--tls-ca: %s holds no certificate in PEM form", t.caFile)
	}
	certificate, err := tls.LoadX509KeyPair(t.certFile, t.keyFile)
	if err != nil {
		return nil, fmt.Errorf("--tls-cert %s with --tls-key %s cannot be used: %w", t.certFile, t.keyFile, err)
	}
	return &tls.Config{RootCAs: authorities, Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13}, nil
}

// credentials are for connections made with gRPC itself.
func (t *transport) credentials() (credentials.TransportCredentials, error) {
	config, err := t.config()
	if err != nil || config == nil {
		return insecure.NewCredentials(), err
	}
	return credentials.NewTLS(config), nil
}

// option is for clients of the SDK.
func (t *transport) option() (participant.ClientOption, error) {
	config, err := t.config()
	if err != nil || config == nil {
		return participant.WithInsecure(), err // checked before
	}
	return participant.WithTLS(config), nil
}
