package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

const (
	progressWidth = 40
	// progressLines is how many lines stand in for the bar where there is no
	// terminal, and progressEvery how often the bar is drawn.
	progressLines = 5
	progressEvery = 100 * time.Millisecond
)

// progress shows how far long work is: a bar on a terminal, a few lines
// elsewhere. One goroutine at a time uses it.
type progress struct {
	env  *environment
	say  func(string, ...any)
	bar  bool
	next time.Time
	// told is how many of the lines were written.
	told int
}

func newProgress(env *environment, say func(string, ...any)) *progress {
	f, ok := env.stderr.(*os.File)
	return &progress{env: env, say: say, bar: ok && term.IsTerminal(int(f.Fd()))}
}

func (p *progress) show(done, total int) {
	if !p.bar {
		if part := done * progressLines / total; part > p.told {
			p.told = part
			p.say("%d of %d", done, total)
		}
		return
	}
	if now := time.Now(); now.After(p.next) || done == total {
		p.next = now.Add(progressEvery)
		full := done * progressWidth / total
		fmt.Fprintf(p.env.stderr, "\r[%s%s] %d of %d ", strings.Repeat("#", full), strings.Repeat(".", progressWidth-full), done, total)
	}
}

func (p *progress) end() {
	if p.bar {
		fmt.Fprintln(p.env.stderr)
	}
}
