package bench

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// memoryUse is what the process holds in memory, without what it maps of files:
// the system takes that back as it likes.
func memoryUse() (uint64, bool) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, false
	}
	for line := range bytes.Lines(status) {
		fields := bytes.Fields(line)
		if len(fields) == 3 && string(fields[0]) == "RssAnon:" {
			kib, err := strconv.ParseUint(string(fields[1]), 10, 64)
			return kib << 10, err == nil
		}
	}
	return 0, false
}

func openFileCount() (int, bool) {
	list, err := os.ReadDir("/proc/self/fd")
	return len(list), err == nil
}

// diskUse is what the files under dir take; memtables are sparse. Files that go
// away meanwhile do not count.
func diskUse(dir string) (total uint64) {
	_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := entry.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				total += uint64(st.Blocks) * 512
			}
		}
		return nil
	})
	return total
}

// cpuTime is what the process has used so far.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
