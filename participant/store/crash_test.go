package store

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// crashChildEnv makes the test binary a process that writes until it is killed.
const (
	crashChildEnv = "COHORT_STORE_CRASH_CHILD"
	crashPauseEnv = "COHORT_STORE_CRASH_PAUSE_AT"
)

func crashOptions(dir string) Options {
	o := testOptions(dir)
	o.BarrierEvery = 20 * time.Millisecond
	return o
}

// crashScript is script with bulk, so that memtables are flushed and files made
// and removed all the time, and with large values.
func crashScript(index uint64) writes {
	w := script(index)
	w[fmt.Sprintf("bulk%02d", index%50)] = fmt.Appendf(nil, "%20000d", index)
	if index%40 == 0 {
		w[fmt.Sprintf("large%d", index%3)] = fmt.Appendf(nil, "%*d", LargeValueBytes*int(1+index%120/40)-50_000, index)
	}
	return w
}

func crashStateAt(index uint64) map[string]string {
	state := make(map[string]string)
	for i := uint64(1); i <= index; i++ {
		advance(state, crashScript(i))
	}
	return state
}

// crashChild goes on where the store is, as a replay does, and prints each index
// that it has published. When told to pause at an index, it runs the only barrier
// there and then waits for its input.
func crashChild(dir string) {
	exit := func(err error) {
		fmt.Println("the store:", err)
		os.Exit(1)
	}
	o := crashOptions(dir)
	pauseAt, _ := strconv.ParseUint(os.Getenv(crashPauseEnv), 10, 64)
	if pauseAt > 0 {
		o.BarrierEvery = time.Hour
	}
	s, err := Open(o)
	if err != nil {
		exit(err)
	}
	for index := s.Synced() + 1; ; {
		u := s.Begin(index)
		for range 1 + index%5 {
			set(u, crashScript(index))
			if err := u.Commit(index); err != nil {
				exit(err)
			}
			index++
			if index-1 == pauseAt {
				break
			}
		}
		if err := u.Finish(); err != nil {
			exit(err)
		}
		if index-1 == pauseAt {
			if err := s.Barrier(); err != nil {
				exit(err)
			}
		}
		fmt.Println(index - 1)
		if index-1 == pauseAt {
			_, _ = os.Stdin.Read(make([]byte, 1))
		}
	}
}

// rawView reads at any index, also beyond what is published.
func rawView(s *Store, index uint64) *View {
	return &View{generation: s.current, txn: s.current.db.NewTransactionAt(index, false), index: index}
}

// recovered is the last index that badger holds, as the transactions say.
func recovered(t *testing.T, s *Store) uint64 {
	t.Helper()
	item, err := s.current.db.NewTransactionAt(math.MaxUint64, false).Get(appliedKey)
	if err != nil {
		t.Fatal(err)
	}
	value, err := item.ValueCopy(nil)
	must(t, err)
	return binary.BigEndian.Uint64(value)
}

// wantWholePrefix checks that what was recovered is a whole prefix, that S is, and
// that replaying from S over the versions from the future gives the same states.
func wantWholePrefix(t *testing.T, s *Store, replayTo uint64, entry func(uint64) writes) {
	t.Helper()
	synced := s.Synced()
	want := make(map[string]string)
	for i := uint64(1); i <= synced; i++ {
		advance(want, entry(i))
	}
	wantAt(t, s, synced, want)
	for index := synced + 1; index <= replayTo; {
		u := s.Begin(index)
		for range 1 + index%3 {
			set(u, entry(index))
			advance(want, entry(index))
			must(t, u.Commit(index))
			index++
		}
		if index%31 < 3 { // now and then: it compares megabytes
			wantState(t, contents(t, u), want)
		}
		must(t, u.Finish())
		if index > replayTo || index%37 < 3 {
			wantAt(t, s, 0, want)
		}
	}
	wantNoStrayChunks(t, s)
}

// Would break: a replica that comes back from SIGKILL with half an entry, a hole,
// or something reported as applied missing.
func TestKilledInTheMiddle(t *testing.T) {
	dir := t.TempDir()
	for round := range 5 {
		last := runAndKill(t, dir, time.Duration(50+rand.IntN(250))*time.Millisecond)
		s := open(t, crashOptions(dir))
		applied := recovered(t, s)
		if applied < last || s.Synced() > applied {
			t.Fatalf("round %d: published %d, recovered %d, S %d", round, last, applied, s.Synced())
		}
		wantState(t, contents(t, rawView(s, applied)), crashStateAt(applied))
		if round == 4 {
			wantWholePrefix(t, s, applied+5, crashScript)
			t.Logf("%d entries in %d rounds", applied, round+1)
		} else if round%2 == 1 {
			must(t, s.Close()) // with a clean start in between, and without
			continue
		}
		crashClose(t, s)
	}
}

// crashClose closes without the last barrier, so that S stays where the kill left
// it.
func crashClose(t *testing.T, s *Store) {
	t.Helper()
	s.failure.Store(&failure{err: ErrFailed})
	must(t, s.Close())
}

// runAndKill lets a child write for a while after its first index and kills it; it
// returns the last index that the child reported.
func runAndKill(t *testing.T, dir string, after time.Duration) (last uint64) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashChildEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	var kill *time.Timer
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if _, err := fmt.Sscan(lines.Text(), &last); err != nil {
			t.Fatalf("the child: %s", lines.Text())
		}
		if kill == nil {
			kill = time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		}
	}
	_ = cmd.Wait()
	if kill == nil {
		t.Fatal("the child printed nothing")
	}
	return last
}

// Would break: power loss. After the barrier that made S, each unsynced page of a
// memtable file may have reached the disk or not, new files may be there with any
// length; S must be whole and its replay give the same.
func TestPowerLossAfterBarrier(t *testing.T) {
	for seed := range uint64(4) {
		r := rand.New(rand.NewPCG(4, seed))
		synced := 100 + r.Uint64N(400)
		last := synced + 50 + r.Uint64N(400)
		atBarrier, lost := copyAtBarrierAndLater(t, synced, last)
		mems, err := filepath.Glob(filepath.Join(lost, "*", "*.mem"))
		must(t, err)
		for _, mem := range mems {
			tearMemtable(t, r, mem, filepath.Join(atBarrier, filepath.Base(filepath.Dir(mem)), filepath.Base(mem)))
		}
		back := open(t, testOptions(lost))
		if back.Synced() != synced {
			t.Fatalf("seed %d: S is %d, want %d", seed, back.Synced(), synced)
		}
		wantWholePrefix(t, back, last, crashScript)
		must(t, back.Close())
	}
}

// copyAtBarrierAndLater runs a child and copies its directory twice while the
// child is stopped: right after its barrier at synced, and somewhere after last.
func copyAtBarrierAndLater(t *testing.T, synced, last uint64) (atBarrier, later string) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashChildEnv+"="+dir, fmt.Sprintf("%s=%d", crashPauseEnv, synced))
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	defer func() { _ = cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	copyStopped := func() string {
		t.Helper()
		must(t, cmd.Process.Signal(unix.SIGSTOP))
		var status unix.WaitStatus
		_, err := unix.Wait4(cmd.Process.Pid, &status, unix.WUNTRACED, nil)
		must(t, err)
		to := filepath.Join(t.TempDir(), "copy")
		must(t, os.CopyFS(to, os.DirFS(dir)))
		must(t, cmd.Process.Signal(unix.SIGCONT))
		return to
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		index, err := strconv.ParseUint(lines.Text(), 10, 64)
		if err != nil {
			t.Fatalf("the child: %s", lines.Text())
		}
		if index == synced {
			atBarrier = copyStopped()
			_, err := in.Write([]byte("x"))
			must(t, err)
		}
		if index >= last {
			return atBarrier, copyStopped()
		}
	}
	t.Fatal("the child ended")
	return "", ""
}

// tearMemtable puts back some pages of a memtable file as they were when synced;
// of a file that is newer, a random part stays.
func tearMemtable(t *testing.T, r *rand.Rand, path, atBarrier string) {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	old, err := os.ReadFile(atBarrier)
	if os.IsNotExist(err) {
		must(t, os.WriteFile(path, data[:r.IntN(len(data)+1)*r.IntN(2)], 0o644))
		return
	}
	must(t, err)
	const page = 4096
	keep := r.IntN(4)
	for from := 0; from < min(len(data), len(old)); from += page {
		if r.IntN(4) >= keep {
			copy(data[from:min(from+page, len(data))], old[from:])
		}
	}
	must(t, os.WriteFile(path, data, 0o644))
}
