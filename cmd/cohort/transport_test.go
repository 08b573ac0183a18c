package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// certificates writes an authority and one certificate for this machine.
func certificates(t *testing.T) (ca, cert, key string) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	newKey := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	authorityKey, nodeKey := newKey(), newKey()
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	node := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "node"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: authority.NotBefore, NotAfter: authority.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	sign := func(c *x509.Certificate, public *ecdsa.PrivateKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, c, authority, &public.PublicKey, authorityKey)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(nodeKey)
	if err != nil {
		t.Fatal(err)
	}
	return write("ca.crt", "CERTIFICATE", sign(authority, authorityKey)), write("node.crt", "CERTIFICATE", sign(node, nodeKey)), write("node.key", "PRIVATE KEY", keyDER)
}

// Without it a cluster that is protected could not be used from the command
// line, or not be protected.
func TestTLS(t *testing.T) {
	ca, cert, key := certificates(t)
	dir := t.TempDir()
	var peers, addrs []string
	var own [2][2]string
	for i := range own {
		for j := range own[i] {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			own[i][j] = listener.Addr().String()
			listener.Close()
		}
		peers = append(peers, fmt.Sprintf("  - {name: n%d, api: %q, raft: %q}\n", i+1, own[i][0], own[i][1]))
		addrs = append(addrs, own[i][0])
	}
	for i := range own {
		path := filepath.Join(dir, fmt.Sprintf("n%d.yaml", i+1))
		text := fmt.Sprintf("name: n%d\ndata_dir: %q\napi: {address: %q}\nraft: {address: %q}\nhttp: {address: \"\"}\ntls: {cert_file: %q, key_file: %q, ca_file: %q}\ncluster:\n%s",
			i+1, filepath.Join(dir, fmt.Sprintf("n%d", i+1)), own[i][0], own[i][1], cert, key, ca, strings.Join(peers, ""))
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		mustCLI(t, "node", "init", "--config", path)
		node := startProgram(t, "serve", "--config", path)
		defer node.wait()
		defer node.signal(syscall.SIGKILL)
	}
	protected := []string{"--addr", strings.Join(addrs, ","), "--tls-ca", ca, "--tls-cert", cert, "--tls-key", key}
	eventually(t, "both nodes", func() bool {
		code, out, _ := runCLI(t, append([]string{"get", "nodes", "-o", "json"}, protected...)...)
		return code == exitDone && strings.Count(out, `"state":"up"`) == 2
	})
	mustCLI(t, append([]string{"apply", "-f", writeGroup(t)}, protected...)...)
	mustCLI(t, append([]string{"tx", "run", "--group", "checkout", "--put", "orders/o-1=new"}, protected...)...)
	mustCLI(t, append([]string{"log", "show", "--group", "checkout"}, protected...)...)
	if code, _, stderr := runCLI(t, "get", "nodes", "--addr", addrs[0]); code != exitFailed {
		t.Errorf("without a certificate: exit %d, %s", code, stderr)
	}
}
