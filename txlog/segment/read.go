package segment

import (
	"fmt"
	"iter"
	"math"
	"os"
	"sort"
)

// Record is a record as it was appended. Payload is the reader's to keep, not to
// change.
type Record struct {
	Position uint64
	Payload  []byte
}

// Read gives the records from position on as far as they are flushed now, at
// least one and then as long as their payloads stay within maxBytes together (0
// or less: all). It ends with an error, ErrTruncated if from is below First and
// *CorruptError for what was damaged, or without when there is no more. It goes
// on while the log is appended to, truncated or reset; what it gives was in the
// log when it began.
func (l *Log) Read(from uint64, maxBytes int64) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		b := budget{left: maxBytes}
		if maxBytes <= 0 {
			b.left = math.MaxInt64
		}
		for {
			p, err := l.part(from)
			if err != nil {
				yield(Record{}, err)
				return
			}
			if p == nil {
				return
			}
			more, err := p.read(from, &b, yield)
			if releaseErr := p.file.release(); err == nil && releaseErr != nil {
				err = fmt.Errorf("segment: %w", releaseErr)
			}
			if err != nil {
				yield(Record{}, err)
				return
			}
			if !more {
				return
			}
			from = p.after
		}
	}
}

// budget is what a Read may still give. The first record is given in any case, or
// a reader would never pass a long one.
type budget struct {
	left  int64
	begun bool
}

func (b *budget) take(size int64) bool {
	ok := !b.begun || size <= b.left
	b.begun = true
	b.left -= size
	return ok
}

// part is a segment to read, acquired, as far as it is readable.
type part struct {
	file   *file
	handle *os.File
	end    uint64
	// after is the position behind it.
	after uint64
}

// part finds the segment that holds position; nil when it is not readable yet.
func (l *Log) part(position uint64) (*part, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.isClosed {
		return nil, ErrClosed
	}
	if first := l.firstLocked(); position < first {
		return nil, fmt.Errorf("%w (asked for %d, the first is %d)", ErrTruncated, position, first)
	}
	if position >= l.readable {
		return nil, nil
	}
	p := &part{file: l.active, end: l.flushed, after: l.readable}
	if l.active == nil || position < l.active.first {
		i := sort.Search(len(l.closed), func(i int) bool { return l.closed[i].first > position }) - 1
		p = &part{file: l.closed[i].file, end: l.closed[i].size, after: l.afterLocked(i)}
	}
	var err error
	p.handle, err = p.file.acquire()
	return p, err
}

// read yields the part's records from position on.
func (p *part) read(from uint64, b *budget, yield func(Record, error) bool) (more bool, err error) {
	at := p.file.near(from)
	c := cursor{file: p.file, handle: p.handle, end: p.end, offset: at.offset, position: at.position}
	for c.position < p.after {
		if !c.more() {
			return false, p.file.corrupt(c.offset, "it ends at position %d, before %d", c.position, p.after)
		}
		payload, err := c.next()
		if err != nil {
			return false, err
		}
		if c.sealed || c.position <= from {
			continue
		}
		if !b.take(int64(len(payload))) {
			return false, nil
		}
		if !yield(Record{Position: c.position - 1, Payload: payload}, nil) {
			return false, nil
		}
	}
	return true, nil
}
