package cluster

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

// taken are the ports handed out by this process, whether used by now or not.
var taken = struct {
	sync.Mutex
	ports map[int]bool
}{ports: map[int]bool{}}

// freeAddress returns a loopback address that nobody listens at.
func freeAddress() (string, error) {
	taken.Lock()
	defer taken.Unlock()
	for range maxPortTries {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		if taken.ports[port] {
			continue
		}
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		if isFree(addr) {
			taken.ports[port] = true
			return addr, nil
		}
	}
	return "", errors.New("no free port on 127.0.0.1 between 15000 and 31999")
}

func isFree(addr string) bool {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	return listener.Close() == nil
}
