package node

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/cohort-tx/cohort/configs"
	"github.com/cohort-tx/cohort/txlog"
)

// security is what protects the traffic of a node: its API's, that to other
// nodes' APIs, and Raft's.
type security struct {
	server, client credentials.TransportCredentials
	raft           *txlog.TLSFiles
}

// newSecurity reads the files of c; nil leaves everything in the clear, which
// the configuration allows on loopback or when insecure is written out.
func newSecurity(c *configs.TLS) (security, error) {
	if c == nil {
		return security{server: insecure.NewCredentials(), client: insecure.NewCredentials()}, nil
	}
	certificate, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	if err != nil {
		return security{}, fmt.Errorf("tls: the certificate %s with key %s cannot be used: %w", c.CertFile, c.KeyFile, err)
	}
	pem, err := os.ReadFile(c.CAFile)
	if err != nil {
		return security{}, fmt.Errorf("tls: %w", err)
	}
	authorities := x509.NewCertPool()
	if !authorities.AppendCertsFromPEM(pem) {
		return security{}, fmt.Errorf("tls: %s holds no certificate in PEM form", c.CAFile)
	}
	return security{
		server: credentials.NewTLS(&tls.Config{
			Certificates: []tls.Certificate{certificate}, ClientCAs: authorities,
			ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
		}),
		client: credentials.NewTLS(&tls.Config{
			Certificates: []tls.Certificate{certificate}, RootCAs: authorities, MinVersion: tls.VersionTLS13,
		}),
		raft: &txlog.TLSFiles{CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile},
	}, nil
}

// dialPeer makes a connection of its own to another node, for what happens once.
func (n *Node) dialPeer(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient(addr, grpc.WithTransportCredentials(n.security.client))
}
