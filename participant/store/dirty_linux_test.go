package store

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// dirtyMemtablePages sums, in KiB, what the kernel holds of mapped memtable files
// in dir and has not written to disk.
func dirtyMemtablePages(t *testing.T, dir string) (kib int) {
	t.Helper()
	f, err := os.Open("/proc/self/smaps")
	must(t, err)
	defer f.Close()
	inside := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) > 1 && !strings.HasSuffix(fields[0], ":"):
			path := fields[len(fields)-1]
			inside = strings.HasPrefix(path, dir) && strings.HasSuffix(path, ".mem")
		case inside && (fields[0] == "Shared_Dirty:" || fields[0] == "Private_Dirty:"):
			var n int
			_, err := fmt.Sscan(fields[1], &n)
			must(t, err)
			kib += n
		}
	}
	return kib
}

// Would break: a barrier that writes S without having synced the memtables, which
// no kill of a process shows.
func TestBarrierLeavesNoDirtyMemtable(t *testing.T) {
	dir := t.TempDir()
	var fs unix.Statfs_t
	must(t, unix.Statfs(dir, &fs))
	if fs.Type == unix.TMPFS_MAGIC {
		t.Skip("memory is all the disk there is here")
	}
	s := open(t, testOptions(dir))
	for i := uint64(1); i <= 50; i++ {
		apply(t, s, i, crashScript(i))
	}
	if before := dirtyMemtablePages(t, s.current.dir); before == 0 {
		t.Skip("the kernel does not tell what is dirty")
	}
	must(t, s.Barrier())
	if after := dirtyMemtablePages(t, s.current.dir); after != 0 {
		t.Fatalf("%d KiB of memtables are not on disk", after)
	}
}
