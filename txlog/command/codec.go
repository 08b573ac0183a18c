package command

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cohort-tx/cohort/txlog/command/wire"
)

// The first byte of an encoding says what it is, the second its version.
const (
	tagBatch   = 'b'
	tagResults = 'r'
	tagEntry   = 'e'

	batchVersion = 1
	// Version 2 of results has a number in each; it is written if one is not 0.
	resultsVersion       = 1
	resultsVersionNumber = 2
	// Version 2 of an entry has the request's digest and the dropped participants;
	// it is written if one of them is not nil.
	entryVersion       = 1
	entryVersionDigest = 2
)

// ErrMalformed is wrapped by every decoding error.
var ErrMalformed = errors.New("malformed bytes")

func malformed(what string, err error) error {
	return fmt.Errorf("decode %s: %w: %w", what, ErrMalformed, err)
}

// header checks the first byte, and that the second is a version up to newest,
// which it gives.
func header(r *wire.Reader, tag, newest byte) (version byte) {
	if r.Byte() != tag {
		r.Fail(fmt.Sprintf("the first byte is not %q", tag))
	}
	version = r.Byte()
	if version < 1 || version > newest {
		r.Fail(fmt.Sprintf("version %d is not known here, only up to %d", version, newest))
	}
	return version
}

// AppendBatch appends the encoding of b. Fields that do not belong to an op's
// kind are not encoded.
func AppendBatch(dst []byte, b *Batch) []byte {
	dst = append(dst, tagBatch, batchVersion)
	dst = binary.AppendUvarint(dst, b.Epoch)
	dst = binary.AppendVarint(dst, b.TimeUnixNano)
	dst = binary.AppendUvarint(dst, uint64(len(b.Commands)))
	for _, c := range b.Commands {
		dst = append(dst, byte(c.kind()), 0, 0, 0, 0)
		start := len(dst)
		dst = appendCommand(dst, c)
		binary.LittleEndian.PutUint32(dst[start-4:], uint32(len(dst)-start))
	}
	return dst
}

func appendCommand(dst []byte, c Command) []byte {
	switch c := c.(type) {
	case *RaiseEpoch:
		dst = wire.AppendString(dst, c.Node)
	case *Decide:
		dst = appendDecide(dst, c)
	case *Settle:
		dst = wire.AppendString(dst, c.ID)
		dst = binary.AppendUvarint(dst, c.Begun)
		dst = append(dst, byte(c.Reason))
		dst = wire.AppendString(dst, c.Detail)
	case *Activate:
		dst = wire.AppendString(dst, c.Participant)
		dst = wire.AppendString(dst, c.Node)
		dst = wire.AppendString(dst, c.Instance)
		dst = binary.AppendUvarint(dst, c.Expect)
		if c.OwnState {
			dst = append(dst, hasOwnState)
		}
	case *Configure:
		dst = appendConfigure(dst, c)
	case *MoveHorizon:
		dst = binary.AppendUvarint(dst, c.To)
	case *Purge, *Unknown:
	default:
		dst = appendCheckpointCommand(dst, c)
	}
	return dst
}

func appendDecide(dst []byte, d *Decide) []byte {
	dst = wire.AppendString(dst, d.ID)
	dst = binary.AppendUvarint(dst, d.Begun)
	dst = wire.AppendBytes(dst, d.RequestDigest)
	dst = binary.AppendUvarint(dst, uint64(len(d.Fences)))
	for i := range d.Fences {
		dst = wire.AppendString(dst, d.Fences[i].Participant)
		dst = binary.AppendUvarint(dst, d.Fences[i].Epoch)
	}
	dst = binary.AppendUvarint(dst, uint64(len(d.Reads)))
	for i := range d.Reads {
		dst = wire.AppendString(dst, d.Reads[i].Participant)
		dst = wire.AppendString(dst, d.Reads[i].Key)
		dst = binary.AppendUvarint(dst, d.Reads[i].Version)
	}
	dst = binary.AppendUvarint(dst, uint64(len(d.Scans)))
	for i := range d.Scans {
		dst = wire.AppendString(dst, d.Scans[i].Participant)
		dst = wire.AppendString(dst, d.Scans[i].Start)
		dst = wire.AppendString(dst, d.Scans[i].End)
		dst = append(dst, d.Scans[i].Hash[:]...)
	}
	dst = binary.AppendUvarint(dst, uint64(len(d.Ops)))
	for i := range d.Ops {
		dst = appendOp(dst, &d.Ops[i])
	}
	return dst
}

// hasOwnState ends an Activate with OwnState. Fields of later feature levels come
// at the end of a command, and only when they are set, so that commands of a level
// are the same bytes in every release.
const hasOwnState = 1

// Which bounds of an add follow.
const (
	hasAtLeast = 1 << 0
	hasAtMost  = 1 << 1
)

func appendOp(dst []byte, o *Op) []byte {
	dst = append(dst, byte(o.Kind))
	dst = wire.AppendString(dst, o.Participant)
	switch o.Kind {
	case OpPut:
		dst = wire.AppendString(dst, o.Key)
		dst = wire.AppendBytes(dst, o.Value)
	case OpDelete:
		dst = wire.AppendString(dst, o.Key)
	case OpAdd:
		dst = wire.AppendString(dst, o.Key)
		dst = binary.AppendVarint(dst, o.Delta)
		flags := len(dst)
		dst = append(dst, 0)
		if o.AtLeast != nil {
			dst[flags] |= hasAtLeast
			dst = binary.AppendVarint(dst, *o.AtLeast)
		}
		if o.AtMost != nil {
			dst[flags] |= hasAtMost
			dst = binary.AppendVarint(dst, *o.AtMost)
		}
	case OpLog:
		dst = wire.AppendBytes(dst, o.Value)
		dst = binary.AppendUvarint(dst, o.AppliedEpoch)
	}
	return dst
}

func appendConfigure(dst []byte, c *Configure) []byte {
	dst = binary.AppendUvarint(dst, c.Version)
	dst = binary.AppendUvarint(dst, c.Incarnation)
	dst = binary.AppendUvarint(dst, uint64(len(c.Participants)))
	for _, p := range c.Participants {
		dst = wire.AppendString(dst, p)
	}
	dst = binary.AppendUvarint(dst, c.Limits.ValueBytes)
	dst = binary.AppendUvarint(dst, c.Limits.TransactionBytes)
	dst = binary.AppendUvarint(dst, c.Limits.TransactionKeys)
	dst = binary.AppendUvarint(dst, c.Limits.ScanKeys)
	dst = wire.AppendBytes(dst, c.Definition)
	return wire.AppendBool(dst, c.Prune)
}

// DecodeBatch is Decoder.Batch with a decoder of its own.
func DecodeBatch(data []byte) (*Batch, error) { return new(Decoder).Batch(data) }

// Decoder decodes batches into memory that it uses again, so that applying an
// entry of many transactions costs few allocations. Not for concurrent use.
type Decoder struct {
	batch   Batch
	decides []Decide
	fences  []Fence
	reads   []Read
	scans   []ScanRead
	ops     []Op
	bounds  []int64
}

// maxKeptItems bounds what a Decoder keeps of each kind after one large batch.
const maxKeptItems = 1 << 14

func reuse[T any](s []T) []T {
	if cap(s) > maxKeptItems {
		return nil
	}
	clear(s)
	return s[:0]
}

// Batch decodes data. What it returns holds until the next call, its byte slices
// besides that only as long as data does; its strings stay.
//
// A command of an unknown kind decodes as *Unknown.
func (d *Decoder) Batch(data []byte) (*Batch, error) {
	d.decides, d.fences, d.reads = reuse(d.decides), reuse(d.fences), reuse(d.reads)
	d.scans, d.ops, d.bounds = reuse(d.scans), reuse(d.ops), reuse(d.bounds)
	r := wire.NewReader(data)
	header(&r, tagBatch, batchVersion)
	d.batch = Batch{Commands: reuse(d.batch.Commands)}
	b := &d.batch
	b.Epoch = r.Uvarint()
	b.TimeUnixNano = r.Varint()
	n := r.Count(5)
	if n > MaxBatchCommands {
		r.Fail(fmt.Sprintf("%d commands are more than %d", n, MaxBatchCommands))
	}
	for range n {
		if r.Err() != nil {
			break
		}
		kind := Kind(r.Byte())
		length := uint32(0)
		if f := r.Fixed(4); f != nil {
			length = binary.LittleEndian.Uint32(f)
		}
		outer := r.Enter(int(length))
		b.Commands = append(b.Commands, d.command(&r, kind))
		r.Leave(outer)
	}
	if err := r.Finish(); err != nil {
		return nil, malformed("a batch", err)
	}
	return b, nil
}

func (d *Decoder) command(r *wire.Reader, kind Kind) Command {
	switch kind {
	case KindRaiseEpoch:
		return &RaiseEpoch{Node: r.String()}
	case KindDecide:
		return d.decide(r)
	case KindSettle:
		return &Settle{ID: r.String(), Begun: r.Uvarint(), Reason: Reason(r.Byte()), Detail: r.String()}
	case KindActivate:
		return activate(r)
	case KindConfigure:
		return configure(r)
	case KindMoveHorizon:
		return &MoveHorizon{To: r.Uvarint()}
	case KindPurge:
		return &Purge{}
	default:
		if c := checkpointCommand(r, kind); c != nil {
			return c
		}
		r.Skip()
		return &Unknown{Kind: kind}
	}
}

// decide appends to the decoder's slices. When one of them grows, the parts
// handed out before stay valid in the old memory.
func (d *Decoder) decide(r *wire.Reader) *Decide {
	d.decides = append(d.decides, Decide{})
	c := &d.decides[len(d.decides)-1]
	c.ID = r.String()
	c.Begun = r.Uvarint()
	c.RequestDigest = r.Bytes()

	first, n := len(d.fences), r.Count(2)
	for range n {
		d.fences = append(d.fences, Fence{Participant: r.String(), Epoch: r.Uvarint()})
	}
	c.Fences = part(d.fences, first)

	first, n = len(d.reads), r.Count(3)
	for range n {
		d.reads = append(d.reads, Read{Participant: r.String(), Key: r.String(), Version: r.Uvarint()})
	}
	c.Reads = part(d.reads, first)

	first, n = len(d.scans), r.Count(19)
	for range n {
		s := ScanRead{Participant: r.String(), Start: r.String(), End: r.String()}
		copy(s.Hash[:], r.Fixed(len(s.Hash)))
		d.scans = append(d.scans, s)
	}
	c.Scans = part(d.scans, first)

	first, n = len(d.ops), r.Count(3)
	for range n {
		d.ops = append(d.ops, d.op(r))
		if r.Err() != nil {
			break
		}
	}
	c.Ops = part(d.ops, first)
	return c
}

// part is what was appended since first, closed to further appends.
func part[T any](s []T, first int) []T {
	if len(s) == first {
		return nil
	}
	return s[first:len(s):len(s)]
}

func (d *Decoder) op(r *wire.Reader) Op {
	o := Op{Kind: OpKind(r.Byte()), Participant: r.String()}
	switch o.Kind {
	case OpPut:
		o.Key = r.String()
		o.Value = r.Bytes()
	case OpDelete:
		o.Key = r.String()
	case OpAdd:
		o.Key = r.String()
		o.Delta = r.Varint()
		flags := r.Byte()
		if flags&^(hasAtLeast|hasAtMost) != 0 {
			r.Fail("an add has unknown bounds")
		}
		if flags&hasAtLeast != 0 {
			o.AtLeast = d.bound(r)
		}
		if flags&hasAtMost != 0 {
			o.AtMost = d.bound(r)
		}
	case OpLog:
		o.Value = r.Bytes()
		o.AppliedEpoch = r.Uvarint()
	default:
		r.Fail("an op has an unknown kind")
	}
	return o
}

func (d *Decoder) bound(r *wire.Reader) *int64 {
	d.bounds = append(d.bounds, r.Varint())
	return &d.bounds[len(d.bounds)-1]
}

func activate(r *wire.Reader) *Activate {
	c := &Activate{Participant: r.String(), Node: r.String(), Instance: r.String(), Expect: r.Uvarint()}
	if r.Rest() > 0 {
		if r.Byte() != hasOwnState {
			r.Fail("an activation has an unknown flag")
		}
		c.OwnState = true
	}
	return c
}

func configure(r *wire.Reader) *Configure {
	c := &Configure{Version: r.Uvarint(), Incarnation: r.Uvarint()}
	if n := r.Count(1); n > 0 {
		c.Participants = make([]string, n)
		for i := range c.Participants {
			c.Participants[i] = r.String()
		}
	}
	c.Limits.ValueBytes = r.Uvarint()
	c.Limits.TransactionBytes = r.Uvarint()
	c.Limits.TransactionKeys = r.Uvarint()
	c.Limits.ScanKeys = r.Uvarint()
	c.Definition = r.Bytes()
	c.Prune = r.Bool()
	return c
}
