package ports

import (
	"net"
	"testing"
)

// Would break: two clusters, of one process or of two, that are given the same port.
func TestClaimedPortsAreGivenOnce(t *testing.T) {
	given := map[string]bool{}
	for range 200 {
		addr, err := Claim()
		if err != nil {
			t.Fatal(err)
		}
		if given[addr] {
			t.Fatalf("%s was given twice", addr)
		}
		given[addr] = true
		if !Free(addr) {
			t.Fatalf("nobody can listen at %s", addr)
		}
		// What another process would do to claim it.
		if claim, err := net.ListenPacket("udp", addr); err == nil {
			claim.Close()
			t.Fatalf("%s can be claimed again", addr)
		}
	}
}

// Would break: a node that cannot start because somebody listens at its address.
func TestTakenPortsAreNotFree(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if Free(l.Addr().String()) {
		t.Fatal("somebody listens there")
	}
}
