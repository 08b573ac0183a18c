package coordinator

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// readable is what Get and Scan read: a snapshot and what an attempt has
// changed over it.
type readable struct {
	view interface {
		scanner
		Meta() (machine.Meta, error)
		Get(participant, key string) (value []byte, version uint64, found bool, err error)
	}
	ops []command.Op
	// attempt that reads; nil for a read-only transaction.
	attempt *Attempt
	release func()
}

// readableAt opens what a read asks for.
func (s *Service) readableAt(ctx context.Context, req readRequest) (*readable, error) {
	switch {
	case req.GetAttempt() != nil:
		attempt, err := begunAttemptOf(req.GetAttempt())
		if err != nil {
			return nil, err
		}
		c, err := s.transactor(req.GetGroup())
		if err != nil {
			return nil, err
		}
		view, ops, release, err := c.AttemptView(ctx, attempt)
		if err != nil {
			return nil, err
		}
		return &readable{view: view, ops: ops, attempt: &attempt, release: release}, nil
	case req.GetReadSession() != 0:
		session, release, err := s.reads.use(req.GetGroup(), req.GetReadSession())
		if err != nil {
			return nil, err
		}
		return &readable{view: session.view, release: release}, nil
	case req.GetStale():
		replica, err := s.replica(req.GetGroup())
		if err != nil {
			return nil, err
		}
		view, err := replica.View(0)
		if err != nil {
			return nil, err
		}
		return &readable{view: view, release: view.Close}, nil
	}
	return nil, invalid("at", "is missing; give an attempt, a read_session, or stale")
}

// abortOf gives a failed read's abort. That an attempt's own changes cannot be
// shown ends it, since an abort is a promise that it will not commit.
func (s *Service) abortOf(ctx context.Context, group string, from *readable, err error) (*pb.Abort, error) {
	id := ""
	if from != nil && from.attempt != nil {
		id = from.attempt.ID
	}
	abort, ok := aborted(id, err)
	if !ok {
		return nil, statusOf(group, err)
	}
	if id != "" {
		c, err := s.transactor(group)
		if err != nil {
			return nil, err
		}
		if err := c.Abort(ctx, *from.attempt, abort.GetDetail()); err != nil {
			return nil, statusOf(group, err)
		}
	}
	return abort, nil
}

func (s *transactionsService) Get(ctx context.Context, req *pb.GetRequest) (*pb.GetResponse, error) {
	if err := checkName("participant", req.GetParticipant()); err != nil {
		return nil, err
	}
	if n := len(req.GetKeys()); n == 0 || n > maxGetKeys {
		return nil, invalid("keys", "there are %d; give 1 to %d", n, maxGetKeys)
	}
	for _, key := range req.GetKeys() {
		if err := checkKey("keys", key); err != nil {
			return nil, err
		}
	}
	from, err := s.readableAt(ctx, req)
	if err == nil {
		defer from.release()
		var out *pb.GetResponse
		if out, err = from.get(req); err == nil {
			return out, nil
		}
	}
	abort, err := s.abortOf(ctx, req.GetGroup(), from, err)
	if err != nil {
		return nil, err
	}
	return &pb.GetResponse{Abort: abort}, nil
}

func (r *readable) get(req *pb.GetRequest) (*pb.GetResponse, error) {
	meta, err := r.view.Meta()
	if err != nil {
		return nil, err
	}
	changes := newOverlay(req.GetParticipant(), r.ops)
	out := &pb.GetResponse{Position: meta.Position, Items: make([]*pb.Item, 0, len(req.GetKeys()))}
	size := 0
	for _, key := range req.GetKeys() {
		value, version, found, err := r.view.Get(req.GetParticipant(), string(key))
		if err != nil {
			return nil, err
		}
		seen, err := changes.fold(string(key), cell{value, found})
		if err != nil {
			return nil, err
		}
		if size += len(key) + len(seen.value); size > maxReplyBytes {
			return nil, failure(codes.ResourceExhausted, reasonTooLarge, nil, "the values asked for have more than %d bytes together; ask for fewer keys", maxReplyBytes)
		}
		out.Items = append(out.Items, &pb.Item{Key: key, Found: seen.found, Value: slices.Clone(seen.value), Version: version})
	}
	return out, nil
}

func (s *transactionsService) Scan(ctx context.Context, req *pb.ScanRequest) (*pb.ScanResponse, error) {
	if err := checkName("participant", req.GetParticipant()); err != nil {
		return nil, err
	}
	if n := len(req.GetPrefix()); n > command.MaxKeyBytes {
		return nil, invalid("prefix", "has %d bytes; keys have at most %d", n, command.MaxKeyBytes)
	}
	if n := len(req.GetAfter()); n > command.MaxKeyBytes {
		return nil, invalid("after", "has %d bytes; keys have at most %d", n, command.MaxKeyBytes)
	}
	if len(req.GetAfter()) > 0 && !strings.HasPrefix(string(req.GetAfter()), string(req.GetPrefix())) {
		return nil, invalid("after", "does not begin with the prefix; give the last key that a Scan with this prefix answered")
	}
	if req.GetLimit() > maxScanLimit {
		return nil, invalid("limit", "%d is too large; at most %d, then continue after the last key", req.GetLimit(), maxScanLimit)
	}
	from, err := s.readableAt(ctx, req)
	if err == nil {
		defer from.release()
		var out *pb.ScanResponse
		if out, err = from.scan(req); err == nil {
			return out, nil
		}
	}
	abort, err := s.abortOf(ctx, req.GetGroup(), from, err)
	if err != nil {
		return nil, err
	}
	return &pb.ScanResponse{Abort: abort}, nil
}

func (r *readable) scan(req *pb.ScanRequest) (*pb.ScanResponse, error) {
	meta, err := r.view.Meta()
	if err != nil {
		return nil, err
	}
	limit := int(req.GetLimit())
	if limit == 0 {
		limit = defaultScanLimit
	}
	start := string(req.GetPrefix())
	if len(req.GetAfter()) > 0 {
		start = string(req.GetAfter()) + "\x00"
	}
	changes := newOverlay(req.GetParticipant(), r.ops)
	items, read, more, err := changes.scan(r.view, start, prefixEnd(string(req.GetPrefix())), limit, maxReplyBytes)
	if err != nil {
		return nil, err
	}
	out := &pb.ScanResponse{More: more, Position: meta.Position, Items: make([]*pb.Item, len(items))}
	for i, item := range items {
		out.Items[i] = &pb.Item{Key: []byte(item.key), Found: true, Value: item.value, Version: item.version}
	}
	if r.attempt != nil {
		out.Read = scanReadToWire(read)
	}
	return out, nil
}

func (s *transactionsService) BeginRead(ctx context.Context, req *pb.BeginReadRequest) (*pb.BeginReadResponse, error) {
	timeout, err := timeoutOf(req.GetTimeoutMs())
	if err != nil {
		return nil, err
	}
	if timeout > maxReadIdle {
		return nil, invalid("timeout_ms", "%d is too long for a read session to be idle; at most %d", req.GetTimeoutMs(), maxReadIdle.Milliseconds())
	}
	replica, err := s.replica(req.GetGroup())
	if err != nil {
		return nil, err
	}
	var view View
	if req.GetStale() {
		view, err = replica.View(0)
	} else {
		view, err = linearizableView(ctx, replica)
	}
	if err != nil {
		return nil, statusOf(req.GetGroup(), err)
	}
	meta, err := view.Meta()
	if err != nil {
		view.Close()
		return nil, statusOf(req.GetGroup(), err)
	}
	number, err := s.reads.open(s.directoryReplica(), &readSession{
		group: req.GetGroup(), incarnation: meta.Incarnation, position: meta.Position, view: view, idle: timeout,
	})
	if err != nil {
		return nil, err
	}
	return &pb.BeginReadResponse{ReadSession: number, Incarnation: meta.Incarnation, Position: meta.Position, NodeAddr: s.config.Addr}, nil
}

// readIndexTimeout bounds one confirmation by the group's quorum.
const readIndexTimeout = 2 * time.Second

// linearizableView pins a state that contains everything acknowledged before
// the call.
func linearizableView(ctx context.Context, replica LocalReplica) (View, error) {
	ctx, cancel := context.WithTimeout(ctx, readIndexTimeout)
	defer cancel()
	index, err := replica.ReadIndex(ctx)
	if err != nil {
		if ctx.Err() != nil {
			// Not the caller's deadline: there is no quorum to be heard.
			return nil, failure(codes.Unavailable, reasonNoReplica, nil, "no quorum confirmed the read within %s (%v); try again, or ask for a stale read", readIndexTimeout, err)
		}
		return nil, err
	}
	view, err := replica.View(0)
	if err == nil && view.Index() < index {
		view.Close()
		panic("a replica published less than the index it confirmed")
	}
	return view, err
}

// directoryReplica is this node's number in the directory; 0 before it is known
// there, and then reads with its sessions must come to this node.
func (s *Service) directoryReplica() uint64 {
	if n, ok := s.config.Groups.Directory().Node(s.config.Node); ok {
		return n.ReplicaID
	}
	return 0
}

func (s *transactionsService) EndRead(_ context.Context, req *pb.EndReadRequest) (*pb.EndReadResponse, error) {
	if req.GetReadSession() == 0 {
		return nil, invalid("read_session", "is 0; give the one that BeginRead answered")
	}
	s.reads.end(req.GetGroup(), req.GetReadSession())
	return &pb.EndReadResponse{}, nil
}
