// Package ports finds ports on loopback for clusters on one machine and for tests.
package ports

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

const (
	// Ports are taken below the range that systems give to outgoing connections
	// (32768 and up on Linux), so that a node that restarts finds its own free.
	firstPort = 15_000
	lastPort  = 31_999
	// maxPortTries bounds the search; a machine with so few free ports has another
	// problem.
	maxPortTries = 1000
)

// claims mark the ports that were handed out by this process, whether used by now
// or not. A claim is the UDP port of the same number, which nothing else of a node
// uses: other processes that look for ports see it, and it ends with this process.
var claims struct {
	sync.Mutex
	held []net.PacketConn
}

// Claim returns a loopback address that nobody listens at, and that no other
// cluster on this machine will be given while this process runs.
func Claim() (string, error) {
	for range maxPortTries {
		addr := fmt.Sprintf("127.0.0.1:%d", firstPort+rand.IntN(lastPort-firstPort+1))
		claim, err := net.ListenPacket("udp", addr)
		if err != nil {
			continue
		}
		if !Free(addr) {
			claim.Close()
			continue
		}
		claims.Lock()
		claims.held = append(claims.held, claim)
		claims.Unlock()
		return addr, nil
	}
	return "", errors.New("no free port on 127.0.0.1 between 15000 and 31999")
}

// Free tells whether one could listen at addr now.
func Free(addr string) bool {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	return listener.Close() == nil
}
