package participant

import (
	"context"
	"errors"
	"iter"
	"time"

	"google.golang.org/grpc"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
)

// readTimeout is how long a read session may be idle.
const readTimeout = 30 * time.Second

// View runs fn on one snapshot of the whole group: it contains everything that
// was acknowledged before, unless Stale is given. It writes nothing and never
// conflicts. When the snapshot is lost, with its node or by age, fn runs again on
// a new one.
func (g *Group) View(ctx context.Context, fn func(*ReadTx) error, opts ...TxOption) error {
	o, err := g.options(opts)
	if err != nil {
		return err
	}
	pause := newBackoff(5*time.Millisecond, time.Second)
	for attempt := 1; ; attempt++ {
		err := g.view(ctx, fn, o)
		again := Retryable(err) && !errors.Is(err, ErrUnavailable)
		if err == nil || attempt >= o.maxAttempts || !again || pause.wait(ctx) != nil {
			return err
		}
	}
}

func (g *Group) view(ctx context.Context, fn func(*ReadTx) error, o txOptions) error {
	timeout := o.timeout
	if timeout == 0 {
		timeout = readTimeout
	}
	begun, err := call(ctx, g.client, "begin read", g.name, &cohortv1.BeginReadRequest{
		Group: g.name, Stale: o.stale, TimeoutMs: milliseconds(timeout),
	}, beginReadMethod)
	if err != nil {
		return err
	}
	tx := &ReadTx{group: g, session: begun.ReadSession, addr: begun.NodeAddr, position: begun.Position}
	tx.buffer = newBuffer(ctx, tx)
	defer tx.end()
	err = fn(tx)
	if lost := tx.buffer.doomed; lost != nil && (err == nil || Retryable(lost)) {
		return lost
	}
	return err
}

// ReadTx reads one snapshot. It belongs to one goroutine.
type ReadTx struct {
	group    *Group
	session  uint64
	addr     string
	position uint64
	buffer   *buffer
	ended    bool
}

// Position is the last position in the snapshot.
func (tx *ReadTx) Position() uint64 { return tx.position }

// Store gives a participant's store in the snapshot.
func (tx *ReadTx) Store(participant string) ReadStore {
	return ReadStore{store: Store{buffer: tx.buffer, participant: participant}}
}

// ReadStore is a participant's store in a snapshot.
type ReadStore struct{ store Store }

// Get is Store.Get.
func (s ReadStore) Get(key string, into any) (found bool, err error) { return s.store.Get(key, into) }

// GetBytes is Store.GetBytes.
func (s ReadStore) GetBytes(key string) (value []byte, found bool, err error) {
	return s.store.GetBytes(key)
}

// Scan is Store.Scan, without its bound.
func (s ReadStore) Scan(prefix string, opts ...ScanOption) iter.Seq2[Item, error] {
	return s.store.Scan(prefix, opts...)
}

// end lets the snapshot go; its node would after a while.
func (tx *ReadTx) end() {
	tx.ended = true
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tx.buffer.ctx), abortTimeout)
	defer cancel()
	_ = tx.at(func(conn *grpc.ClientConn) error {
		_, err := endReadMethod(ctx, conn, &cohortv1.EndReadRequest{Group: tx.group.name, ReadSession: tx.session})
		return err
	})
}

// at sends to the node that holds the snapshot.
func (tx *ReadTx) at(send func(*grpc.ClientConn) error) error {
	addr := tx.addr
	if addr == "" {
		addr = tx.group.client.target(tx.group.name)
	}
	conn, err := tx.group.client.conn(addr)
	if err != nil {
		return err
	}
	return send(conn)
}

func (tx *ReadTx) usable() error {
	if tx.ended {
		return ErrTxDone
	}
	return nil
}

func (tx *ReadTx) get(ctx context.Context, participant string, keys [][]byte) (*cohortv1.GetResponse, error) {
	req := &cohortv1.GetRequest{Group: tx.group.name, Participant: participant, Keys: keys, At: &cohortv1.GetRequest_ReadSession{ReadSession: tx.session}}
	var resp *cohortv1.GetResponse
	err := tx.at(func(conn *grpc.ClientConn) (err error) {
		resp, err = getMethod(ctx, conn, req)
		return err
	})
	if err = lost(requestError(ctx, "get", tx.group.name, err)); err != nil {
		return nil, err
	}
	return resp, checkGet(tx.group, req, resp)
}

func (tx *ReadTx) scan(ctx context.Context, participant string, prefix, after []byte, limit uint32) (*cohortv1.ScanResponse, error) {
	req := &cohortv1.ScanRequest{Group: tx.group.name, Participant: participant, Prefix: prefix, After: after, Limit: limit, At: &cohortv1.ScanRequest_ReadSession{ReadSession: tx.session}}
	var resp *cohortv1.ScanResponse
	err := tx.at(func(conn *grpc.ClientConn) (err error) {
		resp, err = scanMethod(ctx, conn, req)
		return err
	})
	if err = lost(requestError(ctx, "scan", tx.group.name, err)); err != nil {
		return nil, err
	}
	if resp.Abort != nil {
		return nil, abortFromWire(resp.Abort)
	}
	return resp, nil
}

// lost turns a node that went away with its snapshot into what View repeats.
func lost(err error) error {
	if errors.Is(err, ErrUnavailable) {
		return &AbortError{Reason: ReasonSnapshotTooOld, Detail: "the node that held the snapshot does not answer: " + err.Error()}
	}
	return err
}
