package coordinator

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/txlog/command"
)

// Bounds of requests, checked before anything is done. Those of a group, which
// are smaller, are the coordinator's and the state machine's.
const (
	// MaxMessageBytes is for the gRPC options of nodes: the largest transaction
	// that a definition may allow is 16 MiB, and messages have keys, names and
	// envelopes around it.
	MaxMessageBytes = 24 << 20
	// maxRequestItems bounds the ops and the reads of one request: the largest
	// transaction_keys that a definition may allow.
	maxRequestItems = 100_000
	// maxRequestScans bounds the scans of one transaction: each is run again for
	// the decision.
	maxRequestScans = 1000
	// maxGetKeys bounds the keys of one Get.
	maxGetKeys = 1000
	// maxMethodBytes and maxContentTypeBytes bound names that are kept with a step.
	maxMethodBytes      = 128
	maxContentTypeBytes = 128
	// maxTimeout of a request; a group's limits.timeout is shorter.
	maxTimeout = 24 * time.Hour
	// scanHashBytes is the length of a scan's hash.
	scanHashBytes = 16
)

func checkName(field, name string) error {
	if err := command.CheckName(name); err != nil {
		return invalid(field, "%v", err)
	}
	return nil
}

func checkKey(field string, key []byte) error {
	if len(key) == 0 || len(key) > command.MaxKeyBytes {
		return invalid(field, "a key has 1 to %d bytes, not %d", command.MaxKeyBytes, len(key))
	}
	return nil
}

func checkID(field, id string) error {
	if err := command.CheckID(id); err != nil {
		return invalid(field, "%v", err)
	}
	return nil
}

func checkDigest(digest []byte) error {
	if len(digest) > command.MaxDigestBytes {
		return invalid("request_digest", "has %d bytes; at most %d: hash the request", len(digest), command.MaxDigestBytes)
	}
	return nil
}

func checkMethod(method string) error {
	if method == "" || len(method) > maxMethodBytes {
		return invalid("method", "a method has 1 to %d bytes, not %d", maxMethodBytes, len(method))
	}
	for _, c := range []byte(method) {
		if c <= ' ' || c > '~' {
			return invalid("method", "%q holds the byte %#x; printable ASCII without spaces is right", method, c)
		}
	}
	return nil
}

func timeoutOf(milliseconds int64) (time.Duration, error) {
	if milliseconds < 0 || milliseconds > maxTimeout.Milliseconds() {
		return 0, invalid("timeout_ms", "%d is out of range; 0 for the default, or up to %d", milliseconds, maxTimeout.Milliseconds())
	}
	return time.Duration(milliseconds) * time.Millisecond, nil
}

// attemptOf reads an attempt that has begun.
func attemptOf(a *pb.Attempt) (Attempt, error) {
	if a == nil {
		return Attempt{}, invalid("attempt", "is missing; give the one that Begin answered")
	}
	if err := checkID("attempt.id", a.GetId()); err != nil {
		return Attempt{}, err
	}
	return Attempt{ID: a.GetId(), Begun: a.GetBegun(), Nonce: a.GetNonce()}, nil
}

func begunAttemptOf(a *pb.Attempt) (Attempt, error) {
	attempt, err := attemptOf(a)
	if err == nil && attempt.Begun == 0 {
		err = invalid("attempt.begun", "is 0; give the attempt that Begin answered")
	}
	return attempt, err
}

// opsOf reads a client's direct writes.
func opsOf(ops []*pb.Op) ([]command.Op, error) {
	if len(ops) > maxRequestItems {
		return nil, tooMany("ops", len(ops), maxRequestItems)
	}
	if len(ops) == 0 {
		return nil, nil
	}
	out := make([]command.Op, len(ops))
	for i, op := range ops {
		field := func(name string) string { return fmt.Sprintf("ops[%d].%s", i, name) }
		if err := checkName(field("participant"), op.GetParticipant()); err != nil {
			return nil, err
		}
		if _, log := op.GetOp().(*pb.Op_Log); log {
			return nil, invalid(field("log"), "only a participant's step can log a change of its own state; call it")
		}
		if err := checkKey(field("key"), op.GetKey()); err != nil {
			return nil, err
		}
		o := command.Op{Participant: op.GetParticipant(), Key: string(op.GetKey())}
		switch body := op.GetOp().(type) {
		case *pb.Op_Put:
			o.Kind, o.Value = command.OpPut, body.Put.GetValue()
		case *pb.Op_Delete:
			o.Kind = command.OpDelete
		case *pb.Op_Add:
			o.Kind, o.Delta = command.OpAdd, body.Add.GetDelta()
			if body.Add != nil {
				o.AtLeast, o.AtMost = body.Add.AtLeast, body.Add.AtMost
			}
		default:
			return nil, invalid(field("op"), "is missing; give put, delete or add")
		}
		out[i] = o
	}
	return out, nil
}

func readsOf(reads []*pb.Read) ([]command.Read, error) {
	if len(reads) > maxRequestItems {
		return nil, tooMany("reads", len(reads), maxRequestItems)
	}
	out := make([]command.Read, len(reads))
	for i, r := range reads {
		if err := checkName(fmt.Sprintf("reads[%d].participant", i), r.GetParticipant()); err != nil {
			return nil, err
		}
		if err := checkKey(fmt.Sprintf("reads[%d].key", i), r.GetKey()); err != nil {
			return nil, err
		}
		out[i] = command.Read{Participant: r.GetParticipant(), Key: string(r.GetKey()), Version: r.GetVersion()}
	}
	return out, nil
}

func scansOf(scans []*pb.ScanRead) ([]command.ScanRead, error) {
	if len(scans) > maxRequestScans {
		return nil, tooMany("scans", len(scans), maxRequestScans)
	}
	out := make([]command.ScanRead, len(scans))
	for i, s := range scans {
		if err := checkName(fmt.Sprintf("scans[%d].participant", i), s.GetParticipant()); err != nil {
			return nil, err
		}
		// An end may be one byte longer than a key: the key and a zero byte.
		if len(s.GetStart()) > command.MaxKeyBytes+1 || len(s.GetEnd()) > command.MaxKeyBytes+1 {
			return nil, invalid(fmt.Sprintf("scans[%d]", i), "its bounds are longer than keys; hand back what Scan answered")
		}
		if len(s.GetHash()) != scanHashBytes {
			return nil, invalid(fmt.Sprintf("scans[%d].hash", i), "has %d bytes, not %d; hand back what Scan answered", len(s.GetHash()), scanHashBytes)
		}
		out[i] = command.ScanRead{Participant: s.GetParticipant(), Start: string(s.GetStart()), End: string(s.GetEnd())}
		copy(out[i].Hash[:], s.GetHash())
	}
	return out, nil
}

func scanReadToWire(s command.ScanRead) *pb.ScanRead {
	return &pb.ScanRead{Participant: s.Participant, Start: []byte(s.Start), End: []byte(s.End), Hash: s.Hash[:]}
}

func timeToWire(unixNano int64) *timestamppb.Timestamp {
	if unixNano == 0 {
		return nil
	}
	return timestamppb.New(time.Unix(0, unixNano))
}

func receiptToWire(r command.Receipt) *pb.Receipt {
	return &pb.Receipt{Id: r.ID, Incarnation: r.Incarnation, Position: r.Position, Begun: r.Begun, Time: timeToWire(r.TimeUnixNano)}
}

func abortToWire(a *Aborted) *pb.Abort {
	out := &pb.Abort{Id: a.ID, Reason: pb.Reason(a.Reason), Participant: a.Participant, Detail: a.Detail}
	if a.Key != "" {
		out.Key = []byte(a.Key)
	}
	return out
}

func attemptToWire(a Attempt) *pb.Attempt {
	return &pb.Attempt{Id: a.ID, Begun: a.Begun, Nonce: a.Nonce}
}

// entryToWire gives a log entry with the changes of the wanted participants;
// nil wants all.
func entryToWire(e *command.Entry, wanted map[string]bool) *pb.LogEntry {
	out := &pb.LogEntry{Position: e.Position, Id: e.ID, Begun: e.Begun, Time: timeToWire(e.TimeUnixNano)}
	for i := range e.Changes {
		c := &e.Changes[i]
		if wanted != nil && !wanted[c.Participant] {
			continue
		}
		out.Changes = append(out.Changes, &pb.Change{
			Participant: c.Participant, Key: []byte(c.Key), Kind: pb.Change_Kind(c.Kind),
			Value: c.Value, Delta: c.Delta, AppliedEpoch: c.AppliedEpoch,
		})
	}
	return out
}

func transactionToWire(t TransactionInfo) *pb.TransactionInfo {
	out := &pb.TransactionInfo{
		Id: t.ID, State: t.State, Begun: t.Begun, Position: t.Position, Detail: t.Detail,
		Participants: t.Participants, AgeSeconds: t.Age.Seconds(), Time: timeToWire(t.TimeUnixNano),
	}
	if t.Reason != command.ReasonNone {
		out.Reason = ReasonName(t.Reason)
	}
	return out
}

// participantToWire gives a participant of a group whose last position is
// position.
func participantToWire(group string, p ParticipantInfo, position uint64) *pb.ParticipantInfo {
	out := &pb.ParticipantInfo{
		Group: group, Name: p.Name, Node: p.Node, Instance: p.Instance, State: p.State, Epoch: p.Epoch,
		Position: p.Position, Reason: p.Reason, Description: p.Description, Votes: p.Votes, OwnState: p.OwnState,
		Phase: p.Phase, CapturedPosition: p.CapturedPosition,
	}
	if p.OwnState && p.Position < position {
		out.Lag = position - p.Position
	} else if !p.OwnState {
		out.Position = position // its data is the group's own
	}
	for _, s := range p.Standbys {
		standby := &pb.InstanceInfo{Node: s.Node, Instance: s.Instance, Description: s.Description, Position: s.Position, OwnState: s.OwnState, Phase: s.Phase}
		if s.OwnState && s.Position < position {
			standby.Lag = position - s.Position
		}
		out.Standbys = append(out.Standbys, standby)
	}
	return out
}
