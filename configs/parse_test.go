package configs

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// TestParseMessages holds the exact text of every fault: what an operator reads
// when a node does not start.
func TestParseMessages(t *testing.T) {
	datadriven.RunTest(t, "testdata/parse", func(t *testing.T, td *datadriven.TestData) string {
		n, err := Parse("node.yaml", []byte(td.Input))
		if err != nil {
			var faults FileErrors
			if !errors.As(err, &faults) {
				t.Fatalf("%T is not FileErrors", err)
			}
			return err.Error() + "\n"
		}
		if err := n.Validate(); err != nil {
			t.Fatalf("parsed and yet invalid: %v", err)
		}
		return fmt.Sprintf("ok: replica %d of %v, api %s, insecure %v\n", n.InitialReplicaID(), n.InitialMembers(), n.APIAddress(), n.Insecure)
	})
}

// TestShippedNodeFileStatesDefaults: the file that users copy says, key by key,
// what the program does without it.
func TestShippedNodeFileStatesDefaults(t *testing.T) {
	data, err := os.ReadFile("node.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Name, want.DataDir = "n1", "./data/n1"
	want.EnsureDefaults()
	for _, text := range []string{string(data), uncomment(string(data), "tls")} {
		got, err := Parse("node.yaml", []byte(text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	}
	with, err := Parse("node.yaml", []byte(uncomment(string(data), "")))
	if err != nil || with.TLS == nil {
		t.Errorf("with tls: %v", err)
	}
	sections := reflect.TypeFor[Node]()
	for i := range sections.NumField() {
		key, _, _ := strings.Cut(sections.Field(i).Tag.Get("yaml"), ",")
		if !strings.Contains(string(data), "\n"+key+":") && !strings.Contains(string(data), "\n# "+key+":") {
			t.Errorf("the shipped file does not show %s", key)
		}
	}
}

// uncomment turns commented keys into keys, but for the section left out.
func uncomment(text, except string) string {
	var out strings.Builder
	in := false
	for _, line := range strings.Split(text, "\n") {
		body, commented := strings.CutPrefix(line, "# ")
		key, _, isKey := strings.Cut(body, ":")
		isKey = isKey && commented && key != "" && strings.Trim(key, "abcdefghijklmnopqrstuvwxyz_") == ""
		switch {
		case isKey && key != except && !strings.HasSuffix(body, "console."):
			in = true
		case commented && in && strings.HasPrefix(body, "  "):
		default:
			in = false
			body = line
		}
		out.WriteString(body + "\n")
	}
	return out.String()
}

// TestThreeNodes: the shipped example is one cluster, on ports that do not meet.
func TestThreeNodes(t *testing.T) {
	var cluster []Peer
	taken := map[string]string{}
	for i, name := range []string{"n1", "n2", "n3"} {
		n, err := Load("three-nodes/" + name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		if n.Name != name || n.InitialReplicaID() != uint64(i+1) || len(n.Cluster) != 3 {
			t.Errorf("%s is replica %d of %d", n.Name, n.InitialReplicaID(), len(n.Cluster))
		}
		if cluster != nil && !reflect.DeepEqual(cluster, n.Cluster) {
			t.Errorf("%s lists another cluster", name)
		}
		cluster = n.Cluster
		for _, address := range []string{n.API.Address, n.Raft.Address, n.HTTP.Address, n.DataDir} {
			if other, twice := taken[address]; twice {
				t.Errorf("%s and %s share %s", name, other, address)
			}
			taken[address] = name
		}
	}
}

// TestClusterID: it tells clusters apart and does not change with what may
// change.
func TestClusterID(t *testing.T) {
	a, err := Load("three-nodes/n1.yaml")
	if err != nil {
		t.Fatal(err)
	}
	b, err := Load("three-nodes/n2.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if a.ClusterID() != b.ClusterID() {
		t.Error("nodes of one cluster differ")
	}
	b.Cluster[0].API = "elsewhere:1"
	if a.ClusterID() != b.ClusterID() {
		t.Error("an API address changed the cluster")
	}
	b.Cluster[0].Raft = "elsewhere:1"
	if a.ClusterID() == b.ClusterID() {
		t.Error("other members make the same cluster")
	}
}

// TestLoadMissing: a file that is not there is not a fault of a file.
func TestLoadMissing(t *testing.T) {
	if _, err := Load("testdata/none.yaml"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// TestValidateGathers: a configuration made in Go hears everything at once.
func TestValidateGathers(t *testing.T) {
	n := Default()
	n.Log.Level = "loud"
	err := n.Validate()
	var invalid *InvalidError
	if !errors.As(err, &invalid) || len(invalid.Problems) != 3 {
		t.Errorf("%v", err)
	}
}

// FuzzParse: no file makes the parser panic, and what it accepts is valid.
func FuzzParse(f *testing.F) {
	shipped, err := os.ReadFile("node.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(shipped)
	f.Add([]byte(uncomment(string(shipped), "")))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := Parse("node.yaml", data)
		if err == nil {
			err = n.Validate()
			if err != nil {
				t.Fatal(err)
			}
		}
	})
}
