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
	// name is that of the phase that was shown last, and drawn whether there is a
	// line to end.
	name  string
	drawn bool
}

// phases is a progress that tells of itself on standard error.
func (e *environment) phases() *progress {
	return newProgress(e, func(format string, args ...any) {
		fmt.Fprintf(e.stderr, format+"\n", args...)
	})
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
		p.next, p.drawn = now.Add(progressEvery), true
		full := done * progressWidth / total
		fmt.Fprintf(p.env.stderr, "\r[%s%s] %d of %d ", strings.Repeat("#", full), strings.Repeat(".", progressWidth-full), done, total)
	}
}

// phase shows which part of the work is under way, and how many of its bytes
// are done; a total of 0 means that nobody knows.
func (p *progress) phase(name string, done, total uint64) { p.part(name, done, total, sizeText) }

// time shows which part of the work is under way, and how much of its time is over.
func (p *progress) time(name string, elapsed, of time.Duration) {
	p.part(name, uint64(elapsed), uint64(of), func(n uint64) string {
		return time.Duration(n).Round(100 * time.Millisecond).String()
	})
}

func (p *progress) part(name string, done, total uint64, amount func(uint64) string) {
	fresh := name != p.name
	if fresh {
		p.name, p.told = name, 0
	}
	if p.bar {
		if now := time.Now(); fresh || now.After(p.next) || done == total {
			p.next, p.drawn = now.Add(progressEvery), true
			fmt.Fprintf(p.env.stderr, "\r\x1b[K%s", phaseText(name, done, total, true, amount))
		}
		return
	}
	if fresh {
		p.say("%s", name)
	}
	if total == 0 {
		return
	}
	if part := int(float64(min(done, total)) / float64(total) * progressLines); part > p.told {
		p.told = part
		p.say("%s", phaseText(name, done, total, false, amount))
	}
}

func phaseText(name string, done, total uint64, bar bool, amount func(uint64) string) string {
	switch {
	case total == 0 && done == 0:
		return name
	case total == 0:
		return name + ": " + amount(done)
	}
	text := fmt.Sprintf("%s: %s of %s", name, amount(done), amount(total))
	if !bar {
		return text
	}
	full := int(float64(min(done, total)) / float64(total) * progressWidth)
	return fmt.Sprintf("[%s%s] %s", strings.Repeat("#", full), strings.Repeat(".", progressWidth-full), text)
}

func (p *progress) end() {
	if p.drawn {
		p.drawn = false
		fmt.Fprintln(p.env.stderr)
	}
}
