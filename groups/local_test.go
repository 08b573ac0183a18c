package groups

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func openedDataDir(t *testing.T) (*DataDir, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	if err := InitDataDir(dir, "n1", "c"); err != nil {
		t.Fatal(err)
	}
	d, err := OpenDataDir(dir, "n1", "c")
	if err != nil {
		t.Fatal(err)
	}
	return d, dir
}

// TestDataDirIsMadeOnce: nothing but an explicit initialisation makes a data
// directory, and it makes one only where nothing is.
func TestDataDirIsMadeOnce(t *testing.T) {
	d, dir := openedDataDir(t)
	if d.ID() == "" || d.Path() != dir || len(d.Replicas()) != 0 {
		t.Errorf("fresh directory: %q %q %v", d.ID(), d.Path(), d.Replicas())
	}
	if err := InitDataDir(dir, "n1", "c"); !errors.Is(err, ErrDataDirExists) {
		t.Errorf("initialised twice: %v", err)
	}
	for _, c := range []struct {
		name, cluster string
		want          error
		says          string
	}{
		{"n2", "c", ErrForeignDataDir, "belongs to node n1, and the configuration says n2"},
		{"n1", "other", ErrForeignDataDir, "belongs to cluster c"},
	} {
		if _, err := OpenDataDir(dir, c.name, c.cluster); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("opened as %s of %s: %v", c.name, c.cluster, err)
		}
	}
	used := t.TempDir()
	if err := os.WriteFile(filepath.Join(used, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := InitDataDir(used, "n1", "c"); err == nil || !strings.Contains(err.Error(), "precious") {
		t.Errorf("initialised over other files: %v", err)
	}
	if err := InitDataDir(t.TempDir(), "N/1", "c"); err == nil {
		t.Error("initialised for a name that is none")
	}
}

// TestWipedDataDirIsRefused: a directory that was wiped is never taken for a new
// one, and the error names the way out.
func TestWipedDataDirIsRefused(t *testing.T) {
	d, dir := openedDataDir(t)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	_, err := OpenDataDir(dir, "n1", "c")
	if !errors.Is(err, ErrNoDataDir) || !strings.Contains(err.Error(), "cohort node init") || !strings.Contains(err.Error(), "put the directory back") {
		t.Errorf("wiped: %v", err)
	}
	if err := InitDataDir(dir, "n1", "c"); err != nil {
		t.Fatal(err)
	}
	again, err := OpenDataDir(dir, "n1", "c")
	if err != nil {
		t.Fatal(err)
	}
	if again.ID() == d.ID() {
		t.Error("a new directory has the identity of the one that was wiped")
	}
}

// TestInterruptedInit: a crash at each step leaves a directory that can be
// initialised again or one that is initialised.
func TestInterruptedInit(t *testing.T) {
	for _, left := range [][]string{{}, {"REPLICAS.tmp"}, {"REPLICAS"}, {"REPLICAS", "NODE.tmp"}} {
		dir := t.TempDir()
		for _, name := range left {
			if err := os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := OpenDataDir(dir, "n1", "c"); !errors.Is(err, ErrNoDataDir) {
			t.Errorf("%v opens: %v", left, err)
		}
		if err := InitDataDir(dir, "n1", "c"); err != nil {
			t.Errorf("%v: %v", left, err)
		}
		if _, err := OpenDataDir(dir, "n1", "c"); err != nil {
			t.Errorf("%v: %v", left, err)
		}
	}
}

// TestReplicasSurvive: what was recorded is there after the process is gone, a
// torn write beside the file does no harm, and a record is all or nothing.
func TestReplicasSurvive(t *testing.T) {
	d, dir := openedDataDir(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(d.Plan("checkout", 101, 2))
	must(d.Plan("", DirectoryShard, 1))
	must(d.Plan("checkout", 101, 2)) // again, after a crash
	must(d.Bootstrapped(DirectoryShard, 1))
	if err := d.Plan("checkout", 101, 3); err == nil {
		t.Error("planned a second replica of a shard")
	}
	if err := d.Bootstrapped(105, 1); err == nil {
		t.Error("bootstrapped what was not planned")
	}
	must(os.WriteFile(filepath.Join(dir, "REPLICAS.tmp"), []byte("torn"), 0o600))
	again, err := OpenDataDir(dir, "n1", "c")
	must(err)
	want := []LocalReplica{{ShardID: 1, ReplicaID: 1, Bootstrapped: true}, {Group: "checkout", ShardID: 101, ReplicaID: 2}}
	if got := again.Replicas(); !slices.Equal(got, want) {
		t.Errorf("replicas %+v, want %+v", got, want)
	}
	must(again.Forget(101, 2))
	must(again.Plan("checkout", 101, 3))
	third, err := OpenDataDir(dir, "n1", "c")
	must(err)
	if got := third.Replicas(); len(got) != 2 || got[1].ReplicaID != 3 {
		t.Errorf("replicas %+v", got)
	}
}

// TestDamagedRecordIsRefused: no flipped bit and no missing byte is taken for a
// record, for a replica could vote twice by it.
func TestDamagedRecordIsRefused(t *testing.T) {
	d, dir := openedDataDir(t)
	if err := d.Plan("checkout", 101, 2); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{identityFile, replicasFile} {
		path := filepath.Join(dir, name)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		try := func(what string, data []byte) {
			t.Helper()
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := OpenDataDir(dir, "n1", "c"); err == nil {
				t.Errorf("%s with %s opens", name, what)
			}
		}
		for i := range whole {
			damaged := slices.Clone(whole)
			damaged[i] ^= 0x40
			try("a flipped bit", damaged)
		}
		for i := range whole {
			try("its end missing", whole[:i])
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenDataDir(dir, "n1", "c"); err == nil {
			t.Errorf("opens without %s", name)
		}
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	newer := "cohort-node 2 00000000 0\n"
	if err := os.WriteFile(filepath.Join(dir, identityFile), []byte(newer), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenDataDir(dir, "n1", "c"); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "format 2, this version reads 1") {
		t.Errorf("newer format: %v", err)
	}
}

// TestStartMode is the table of StartMode's comment: a replica that may have
// voted never starts without what it remembers.
func TestStartMode(t *testing.T) {
	const (
		none = iota
		planned
		bootstrapped
	)
	for _, c := range []struct {
		own            int
		marked, hasLog bool
		want           StartMode
	}{
		{none, false, false, StartBootstrap},
		{none, false, true, 0},
		{none, true, false, 0},
		{none, true, true, 0},
		{planned, false, false, StartBootstrap},
		{planned, true, false, StartBootstrap},
		{planned, false, true, StartRestart},
		{planned, true, true, StartRestart},
		{bootstrapped, false, false, 0},
		{bootstrapped, true, false, 0},
		{bootstrapped, false, true, StartRestart},
		{bootstrapped, true, true, StartRestart},
	} {
		d, _ := openedDataDir(t)
		if c.own >= planned {
			if err := d.Plan("g", 100, 1); err != nil {
				t.Fatal(err)
			}
		}
		if c.own == bootstrapped {
			if err := d.Bootstrapped(100, 1); err != nil {
				t.Fatal(err)
			}
		}
		got, err := d.StartMode(100, 1, c.marked, c.hasLog)
		if got != c.want || (got == 0) != errors.Is(err, ErrAmnesia) {
			t.Errorf("%+v: %v, %v", c, got, err)
		}
	}
}

// FuzzDecodeLocal: no bytes on disk make a node panic.
func FuzzDecodeLocal(f *testing.F) {
	f.Add([]byte("cohort-node 1 00000000 0\n"))
	f.Add([]byte("cohort-node 1 2b2c1a3f 3\n{}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var id identity
		if err := decodeLocal("NODE", "node", data, &id); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Fatal(err)
		}
	})
}
