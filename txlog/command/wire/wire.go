// Package wire reads and writes the primitives of Cohort's hand-laid binary
// records: unsigned and zigzag varints, counted bytes, fixed runs. There is one
// encoding of each value: a varint that is longer than needed is an error, and
// so is anything left over at the end.
//
// A Reader never panics and never allocates more than its input is long; its
// first fault stays, and every read after it gives a zero value, so that a
// decoder may check once, at the end.
package wire

import (
	"encoding/binary"
	"fmt"
)

// Error is a fault in the bytes that a Reader was given.
type Error struct {
	Offset int
	Detail string
}

func (e *Error) Error() string { return fmt.Sprintf("at byte %d: %s", e.Offset, e.Detail) }

// AppendBytes appends the length of v and v.
func AppendBytes(dst, v []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(v)))
	return append(dst, v...)
}

// AppendString appends the length of v and v.
func AppendString(dst []byte, v string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(v)))
	return append(dst, v...)
}

// AppendBool appends one byte, 1 or 0.
func AppendBool(dst []byte, v bool) []byte {
	if v {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// Reader reads primitives from bytes, front to back.
type Reader struct {
	data []byte
	// text is data once more: all strings are cut from it, so that a record with
	// many strings costs one allocation.
	text string
	off  int
	end  int // of the innermost frame
	err  *Error
}

// NewReader reads data, which must not change while the byte slices that the
// reader gave out are in use. Strings are copies.
func NewReader(data []byte) Reader {
	return Reader{data: data, text: string(data), end: len(data)}
}

// Err is the first fault, nil without one.
func (r *Reader) Err() error {
	if r.err == nil {
		return nil
	}
	return r.err
}

// Fail records a fault that the caller found in what it just read.
func (r *Reader) Fail(detail string) {
	if r.err == nil {
		r.err = &Error{Offset: r.off, Detail: detail}
	}
}

// Finish is Err, or a fault when bytes are left over.
func (r *Reader) Finish() error {
	if r.err == nil && r.off != r.end {
		r.Fail(fmt.Sprintf("%d bytes are left over", r.end-r.off))
	}
	return r.Err()
}

// Rest is the number of bytes left in the frame.
func (r *Reader) Rest() int {
	if r.err != nil {
		return 0
	}
	return r.end - r.off
}

// Byte reads one byte.
func (r *Reader) Byte() byte {
	if r.Rest() < 1 {
		r.Fail("a byte is missing")
		return 0
	}
	b := r.data[r.off]
	r.off++
	return b
}

// Bool reads a byte that must be 0 or 1.
func (r *Reader) Bool() bool {
	b := r.Byte()
	if b > 1 {
		r.Fail("a flag is neither 0 nor 1")
	}
	return b == 1 && r.err == nil
}

// Uvarint reads an unsigned varint in its shortest form.
func (r *Reader) Uvarint() uint64 {
	if r.err != nil {
		return 0
	}
	if r.off < r.end && r.data[r.off] < 0x80 {
		r.off++
		return uint64(r.data[r.off-1])
	}
	v, n := binary.Uvarint(r.data[r.off:r.end])
	switch {
	case n == 0:
		r.Fail("a number is cut short")
		return 0
	case n < 0:
		r.Fail("a number needs more than 64 bits")
		return 0
	case n > 1 && r.data[r.off+n-1] == 0:
		r.Fail("a number is longer than it needs to be")
		return 0
	}
	r.off += n
	return v
}

// Varint reads a zigzag varint in its shortest form.
func (r *Reader) Varint() int64 {
	u := r.Uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

// Count reads the number of items to follow, each at least size bytes long. A
// count that cannot fit is a fault, so that the caller may allocate by it.
func (r *Reader) Count(size int) int {
	n := r.Uvarint()
	if n > uint64(r.Rest()/size) {
		r.Fail("a count is larger than the bytes that follow")
		return 0
	}
	return int(n)
}

// Fixed reads n bytes. They alias the input.
func (r *Reader) Fixed(n int) []byte {
	if r.Rest() < n {
		r.Fail("a field is cut short")
		return nil
	}
	b := r.data[r.off : r.off+n : r.off+n]
	r.off += n
	return b
}

// Bytes reads counted bytes. They alias the input; none is nil.
func (r *Reader) Bytes() []byte {
	n := r.Count(1)
	if n == 0 {
		return nil
	}
	return r.Fixed(n)
}

// String reads counted bytes as a string.
func (r *Reader) String() string {
	n := r.Count(1)
	if n == 0 {
		return ""
	}
	s := r.text[r.off : r.off+n]
	r.off += n
	return s
}

// Enter begins a frame of n bytes; Leave ends it with what Enter returned.
func (r *Reader) Enter(n int) (outer int) {
	outer = r.end
	if r.Rest() < n {
		r.Fail("a frame is cut short")
		return outer
	}
	r.end = r.off + n
	return outer
}

// Leave ends a frame; bytes of it that were not read are a fault.
func (r *Reader) Leave(outer int) {
	if r.err == nil && r.off != r.end {
		r.Fail("a frame is longer than its content")
	}
	r.end = outer
}

// Skip passes over the rest of the frame.
func (r *Reader) Skip() {
	if r.err == nil {
		r.off = r.end
	}
}
